"""The parts of the model's card that come from a run; no PyTorch in here."""

import json
import re
from pathlib import Path

from repetition import NGRAM


def row_of(step: int, log: Path) -> dict[str, float]:
    """The figures of a step; its last ones, where a run was taken up again."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    found = [row for row in rows if row["step"] == step]
    if not found:
        raise SystemExit(f"{log}: no step {step}")
    return found[-1]


def less_repetition(log: Path) -> str:
    """What ``unloop.py`` changed, from its first and its last row."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    before, after = (f"{100 * row['repeated_tokens']:.1f} %" for row in (rows[0], rows[-1]))
    return (
        "Of the tokens of likeliest continuations of training stories' beginnings,"
        f" {before} completed a run of {NGRAM} tokens, or stood in a sentence, that had been there"
        f" before; {after} after the steps against repetition."
    )


def fill_card(card: Path, parts: dict[str, str]) -> None:
    """Replace what stands between ``<!-- NAME -->`` and ``<!-- end of NAME -->``."""
    text = card.read_text(encoding="utf-8")
    for name, part in parts.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        pattern = re.compile(f"(?<={re.escape(begin)}).*?(?={re.escape(end)})", re.DOTALL)
        text, count = pattern.subn(lambda _, part=part: f"\n{part}\n\n", text)
        if count != 1:
            raise SystemExit(f"{card}: there must be one place for {name}, not {count}")
    card.write_text(text, encoding="utf-8")


def quoted(text: str) -> str:
    """Markdown of a quotation, a line for each paragraph."""
    return text.rstrip().replace("\n", "\n>\n> ")
