"""Build the extension with AddressSanitizer and UndefinedBehaviorSanitizer and run tests on it.

For `make test-sanitize`. The sanitized library lies in build/sanitize and is put in front of the
editable install through PYTHONPATH for this run alone; nothing that is installed changes. The
sanitizers' runtime must be in the process before Python itself: LD_PRELOAD.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def runtime(name: str) -> str:
    """The full path of the compiler's own copy of a library."""
    compiler = os.environ.get("CXX", "g++")
    return subprocess.check_output([compiler, f"-print-file-name={name}"], text=True).strip()


def main(arguments: list[str]) -> int:
    root = Path(__file__).resolve().parent.parent
    tree = root / "build" / "sanitize"
    package = tree / "python" / "octavo"
    tools = Path(sys.executable).parent
    subprocess.run(
        [
            *(tools / "cmake", "-G", "Ninja", "-S", root, "-B", tree),
            f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}",
            f"-DPython_EXECUTABLE={sys.executable}",
            *("-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DOCTAVO_SANITIZE=ON"),
        ],
        check=True,
    )
    subprocess.run([tools / "cmake", "--build", tree, "--parallel", "2"], check=True)
    package.mkdir(parents=True, exist_ok=True)
    for source in (root / "src" / "octavo").iterdir():
        link = package / source.name
        if not link.exists():
            link.symlink_to(source)
    for library in tree.glob("_native*.so"):
        library.replace(package / library.name)
    environment = os.environ | {
        "PYTHONPATH": f"{package.parent}{os.pathsep}{root}",
        "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libubsan.so')}",
        # The interpreter leaves memory behind on purpose, and tests make pages that fault.
        "ASAN_OPTIONS": "detect_leaks=0,verify_asan_link_order=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "OCTAVO_TEST_TIME_LIMIT": "off",
    }
    # The editable install's finder comes before the folders of PYTHONPATH: it has to go.
    run_pytest = (
        "import sys; "
        "sys.meta_path[:] = [f for f in sys.meta_path if 'ScikitBuild' not in type(f).__name__]; "
        "import octavo._native as native; "
        f"assert native.__file__.startswith({str(tree)!r}), native.__file__; "
        "import pytest; raise SystemExit(pytest.main(sys.argv[1:]))"
    )
    return subprocess.run(
        [sys.executable, "-c", run_pytest, *arguments], env=environment, cwd=root, check=False
    ).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
