"""Output files: what an earlier run left is taken over, repaired, or refused untouched."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from octavo.batch.lines import Survey, error_line, open_input, read_lines
from octavo.batch.output import SYNC_INTERVAL_S, OutputFile
from octavo.core.errors import ConfigError, InvalidRequest

ERROR = InvalidRequest("no")


@pytest.fixture
def survey(tmp_path: Path) -> Survey:
    path = tmp_path / "in.jsonl"
    path.write_text("first\n\nsecond\nthird\n")
    return Survey.of(path)


@pytest.fixture
def answers(survey: Survey) -> list[bytes]:
    with open_input(survey.path) as file:
        return [error_line(line, ERROR) for line in read_lines(file)]


def answered(path: Path, survey: Survey) -> list[int]:
    with closing(OutputFile(path, survey)) as output:
        return [number for number, one in enumerate(output.is_answered.tolist()) if one]


def test_a_new_file_has_no_answers(tmp_path: Path, survey: Survey) -> None:
    assert answered(tmp_path / "out.jsonl", survey) == []
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_answers_are_found_again_in_any_order(
    tmp_path: Path, survey: Survey, answers: list[bytes]
) -> None:
    path = tmp_path / "out.jsonl"
    with closing(OutputFile(path, survey)) as output:
        output.append(answers[2])
        output.append(answers[0])
    assert path.read_bytes() == answers[2] + answers[0]
    assert answered(path, survey) == [1, 4]


def test_a_file_cut_off_anywhere_loses_one_answer_at_most(
    tmp_path: Path, survey: Survey, answers: list[bytes]
) -> None:
    path = tmp_path / "out.jsonl"
    whole = b"".join(answers)
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        with closing(OutputFile(path, survey)) as output:
            kept = whole[:length].rfind(b"\n") + 1
            assert output.num_repaired_bytes == length - kept
            assert output.is_answered.sum() == whole[:length].count(b"\n")
            output.append(answers[-1])
        assert path.read_bytes() == whole[:kept] + answers[-1]


def test_blocks_that_a_power_cut_left_empty_are_cut_off(
    tmp_path: Path, survey: Survey, answers: list[bytes]
) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(answers[0] + b"\0" * 100)
    assert answered(path, survey) == [1]
    assert path.read_bytes() == answers[0]


@pytest.mark.parametrize("content", [b"dear diary\n", b"dear diary", b"{}\n", b"\n", b"\xff\n"])
def test_a_file_of_something_else_is_refused_and_left_alone(
    tmp_path: Path, survey: Survey, content: bytes
) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="line 1 is not an answer") as refusal:
        OutputFile(path, survey)
    assert refusal.value.hint
    assert path.read_bytes() == content


def test_answers_to_another_input_are_refused_and_left_alone(
    tmp_path: Path, survey: Survey, answers: list[bytes]
) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(answers[0] + answers[1])
    survey.path.write_text("first\n\nsecond, changed\nthird\n")
    with pytest.raises(ConfigError, match="line 2 answers line 3 of another input"):
        OutputFile(path, Survey.of(survey.path))
    survey.path.write_text("first\n")
    with pytest.raises(ConfigError, match="line 2 answers line 3 of another input"):
        OutputFile(path, Survey.of(survey.path))
    assert path.read_bytes() == answers[0] + answers[1]


def test_an_input_that_has_grown_is_the_same_input(
    tmp_path: Path, survey: Survey, answers: list[bytes]
) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(answers[0])
    with survey.path.open("a") as file:
        file.write("fourth\n")
    assert answered(path, Survey.of(survey.path)) == [1]


def test_one_process_writes(tmp_path: Path, survey: Survey) -> None:
    path = tmp_path / "out.jsonl"
    with closing(OutputFile(path, survey)), pytest.raises(ConfigError, match="another process"):
        OutputFile(path, survey)
    assert answered(path, survey) == []


def test_the_input_is_no_output(tmp_path: Path, survey: Survey) -> None:
    before = survey.path.read_bytes()
    link = tmp_path / "link.jsonl"
    os.link(survey.path, link)
    for path in (survey.path, link):
        with pytest.raises(ConfigError, match="is the input too"):
            OutputFile(path, survey)
    assert survey.path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "message"), [(".", "not a regular file"), ("none/out", "cannot be written")]
)
def test_what_cannot_be_an_output(tmp_path: Path, survey: Survey, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OutputFile(tmp_path / name, survey)


def test_what_is_written_is_on_the_disk_within_a_second_and_at_the_end(
    tmp_path: Path, survey: Survey, answers: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    syncs: list[float] = []
    output = OutputFile(tmp_path / "out.jsonl", survey, clock=lambda: now_s)
    monkeypatch.setattr(os, "fsync", lambda descriptor: syncs.append(now_s))
    for time_s in (0.1, 0.9, 1.0, 1.5, 1.9, 2.2):
        now_s = time_s
        output.append(answers[0])
    assert syncs == [SYNC_INTERVAL_S, 2.2]
    now_s = 2.3
    output.close()
    assert syncs[-1] == 2.3


def test_a_disk_that_is_full_leaves_whole_lines(
    tmp_path: Path, survey: Survey, answers: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.jsonl"
    output = OutputFile(path, survey)
    output.append(answers[0])
    write = os.write
    room = [10]

    def write_a_little(descriptor: int, data: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[: room.pop()])

    monkeypatch.setattr(os, "write", write_a_little)
    with pytest.raises(OSError, match="No space left"):
        output.append(answers[1])
    monkeypatch.undo()
    assert path.read_bytes() == answers[0]
    output.append(answers[1])
    output.close()
    assert path.read_bytes() == answers[0] + answers[1]


def test_a_lock_dies_with_its_process(tmp_path: Path, survey: Survey) -> None:
    path = tmp_path / "out.jsonl"
    code = (
        "import os, signal, sys; from pathlib import Path;"
        "from octavo.batch.lines import Survey; from octavo.batch.output import OutputFile;"
        "held = OutputFile(Path(sys.argv[1]), Survey.of(Path(sys.argv[2])));"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path), str(survey.path)], check=False)
    assert done.returncode == -9
    assert answered(path, survey) == []
