"""The Python snippets of the README and the guides run, in order, one page at a time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.small_model import write_small_model

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/guides/*.md"))]
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_snippets(page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    snippets = SNIPPET.findall(text)
    assert snippets, f"{page} has no Python snippet"
    model = str(write_small_model(tmp_path))
    names: dict[str, object] = {"MODEL": model}
    for number, snippet in enumerate(snippets, 1):
        code = snippet.replace('"path/to/a/model"', repr(model))
        exec(compile(code, f"{page}, snippet {number}", "exec"), names)
    assert capsys.readouterr().out
