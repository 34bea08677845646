"""``octavo bench quality``: a table, JSON lines, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from octavo.bench.quality import DEFAULT_FORMATS, QualityRow
from octavo.cli.bench_tables import quality_notes, quality_table
from octavo.cli.output import console
from tests.command_line import CommandLine
from tests.small_model import write_small_model

TEXT = "One dog.\n===\nTwo dogs, and a cat.\n===\n"


@pytest.fixture
def text(octavo: CommandLine) -> Path:
    path = octavo.folder / "dogs.txt"
    path.write_text(TEXT)
    return path


def test_a_table(octavo: CommandLine, model: Path, text: Path) -> None:
    ended = octavo("bench", "quality", model, "--text", text, "--separator", "===")
    assert (ended.status, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0].strip() == "dogs.txt"
    # The first character of a document is there to be read: this model has no BOS.
    counts = "26 tokens scored, 26 characters; documents: 2, windows of at most 512 tokens: 2."
    assert lines[-1] == f"{model.name}: {counts}"
    rows = [line.split() for line in lines if line.count("/") == 1]
    baseline, *others = rows
    figures, *rest = json_rows(octavo, model, "--text", text, "--separator", "===")
    assert [row[1] for row in others] == [one["format"] for one in rest]
    assert [row[1] for row in rows] == [one.name for one in DEFAULT_FORMATS]
    assert all(len(row) == len(baseline) + 4 for row in others)  # agreement and KL
    assert baseline == [
        model.name[: len(baseline[0])],
        "f32/f32",
        f"{figures['perplexity']:.4g}",
        f"{figures['bits_per_character']:.4f}",
        f"{figures['weight_bytes'] / 2**20:.4g}",
        f"{figures['kv_bytes_a_token'] / 2**10:.4g}",
    ]


def json_rows(octavo: CommandLine, *words: object) -> list[dict[str, object]]:
    ended = octavo("bench", "quality", *words, "--json")
    assert (ended.status, ended.err) == (0, "")
    return [json.loads(line) for line in ended.out.splitlines()]


def test_a_json_line_for_each_model(octavo: CommandLine, model: Path, text: Path) -> None:
    other = write_small_model(octavo.folder / "other", "gpt2")
    rows = json_rows(octavo, model, other, "--text", text, "--limit-tokens", 9, "--formats", "f32")
    assert [row["model"] for row in rows] == [model.name, "other"]
    for row in rows:
        assert set(row) == set(QualityRow.__struct_fields__)
        assert (row["tokens"], row["format"], row["kl_mean"]) == (9, "f32/f32", None)
    assert rows[0]["perplexity"] != rows[1]["perplexity"]


@pytest.mark.parametrize(
    ("words", "formats"),
    [
        ((), [one.name for one in DEFAULT_FORMATS]),
        (("--formats", "w4", "bf16/int8", "w4/bf16"), ["f32/f32", "w4/bf16", "bf16/int8"]),
        (("--backend", "reference"), ["f32/f32"]),
    ],
)
def test_a_row_for_each_format_that_there_is(
    octavo: CommandLine, model: Path, text: Path, words: tuple[str, ...], formats: list[str]
) -> None:
    rows = json_rows(octavo, model, "--text", text, *words)
    assert [row["format"] for row in rows] == formats
    assert [row["kl_mean"] is None for row in rows] == [name == "f32/f32" for name in formats]


def test_without_a_model_it_is_the_built_in_one(octavo: CommandLine, text: Path) -> None:
    [row] = json_rows(octavo, "--text", text, "--formats", "f32")
    assert row["model"] == "builtin"


def test_models_of_one_name_are_told_apart(octavo: CommandLine, text: Path) -> None:
    folders = [write_small_model(octavo.folder / parent / "m", seed=0) for parent in "ab"]
    rows = json_rows(octavo, *folders, "--text", text, "--formats", "f32")
    assert [row["model"] for row in rows] == list(map(str, folders))


def test_mistakes_are_told_before_a_model_is_loaded(
    octavo: CommandLine, model: Path, text: Path
) -> None:
    empty = octavo.folder / "empty"
    empty.write_bytes(b"")
    latin = octavo.folder / "latin"
    latin.write_bytes(b"caf\xe9")
    for words, message in (
        ((model,), "--text FILE is missing"),
        ((model, "--text", octavo.folder / "nothing"), "No such file"),
        ((model, "--text", empty), "no text in it"),
        ((model, "--text", latin), "not UTF-8"),
        ((model, "--text", text, "--separator", ""), "the separator is empty"),
        ((model, "--text", text, "--limit-tokens", -1), "limit_tokens must be at least 0"),
        ((model, "--text", text, "--context", 1), "a context of 1"),
        ((model, "--text", text, "--formats", "f33"), "did you mean 'f32'?"),
        ((model, "--text", text, "--formats", "w8/int9"), "did you mean 'int8'?"),
        ((model, "--text", text, "--formats", "w8/"), "not a format: 'w8/'"),
        (
            (model, "--text", text, "--formats", "w8", "--backend", "reference"),
            "the reference backend has f32 only",
        ),
        ((model, "--text", text, "--num-threads", 0), "num_threads must be"),
    ):
        ended = octavo("bench", "quality", *words)
        assert ended.status == 2, ended.err
        assert message in ended.err
        assert "hint: " in ended.err
        assert ended.out == ""


def test_brackets_in_names_are_no_markup(octavo: CommandLine, text: Path) -> None:
    model = write_small_model(octavo.folder / "[red]m")
    renamed = text.rename(octavo.folder / "[b]t")
    ended = octavo("bench", "quality", model, "--text", renamed, "--formats", "f32")
    assert ended.status == 0
    assert ended.out.split()[0] == "[b]t"
    assert ended.out.count("[red]m") == 2  # in the table, and in the note below


def test_progress_is_shown_on_a_terminal_only(
    octavo: CommandLine, model: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for formats, total in ((("f32",), 37), (("w8", "w4"), 74)):  # tokens, again for each format
        words = ("--text", text, "--json", "--formats", *formats)
        ended = octavo("bench", "quality", model, *words)
        assert f"{total}/{total}" in ended.err
        rows = [json.loads(line) for line in ended.out.splitlines()]
        assert {row["tokens"] for row in rows} == {37}


def row(**changes: object) -> QualityRow:
    fields = {
        "model": "a-model-with-quite-a-name",
        "format": "bf16/bf16",
        "context": 1024,
        "documents": 10,
        "windows": 12,
        "tokens": 20_000,
        "characters": 100_000,
        "perplexity": 1234.5,
        "bits_per_character": 1.23456,
        "agreement": 0.98765,
        "kl_mean": 0.0000123,
        "kl_p99": 0.00123,
        "kl_max": 12.3,
        "weight_bytes": 2_000_000_000,
        "kv_bytes_a_token": 24_576,
    }
    return QualityRow(**{**fields, **changes})


def test_the_widest_row_fits_a_terminal(
    octavo: CommandLine, capsys: pytest.CaptureFixture[str]
) -> None:
    console().print(quality_table("text", [row(), row(format="f32/f32", agreement=None)]))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for figure in ("bf16/bf16", "1,234", "1.2346", "98.8%", "1e-05", "0.0012", "12", "1,907", "24"):
        assert figure in out, out
    assert "…" not in out


def test_bits_of_different_stretches_of_text_are_told() -> None:
    same = [row(), row(format="f32/f32"), row(model="other", characters=99_000)]
    assert len(quality_notes(same)) == 2
    notes = quality_notes([*same, row(model="third", characters=50_000)])
    assert len(notes) == 4
    assert "--limit-tokens 0" in notes[-1]
