"""docs/reference/cli.md is what the commands say; it is also the golden file of every --help."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavo.cli.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def test_the_page_is_up_to_date() -> None:
    if PAGE.read_text(encoding="utf-8") != reference():
        pytest.fail("python -m octavo.cli.reference > docs/reference/cli.md")
