"""Recompile the editable install's extension and put it in place atomically. For `make build`.

Run with the virtual environment's Python. pip would remove the old library before it writes the new
one; here other processes see either, never neither.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path


def main() -> int:
    cmake = Path(sys.executable).parent / "cmake"
    installed = sorted(Path(sysconfig.get_path("platlib"), "octavo").glob("_native*.so"))
    if len(installed) != 1:
        print(f"expected one installed extension, found {installed}", file=sys.stderr)
        return 1
    target = installed[0]
    trees = [
        cache.parent
        for cache in Path("build").glob("*/CMakeCache.txt")
        if (cache.parent / target.name).exists()
    ]
    if not trees:
        print("no build folder holds the extension; run `make clean build`", file=sys.stderr)
        return 1
    tree = max(trees, key=lambda path: path.stat().st_mtime)
    subprocess.run([cmake, "--build", tree, "--parallel", "2"], check=True)
    fresh = target.with_suffix(f".{os.getpid()}.new")
    shutil.copy2(tree / target.name, fresh)
    fresh.replace(target)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
