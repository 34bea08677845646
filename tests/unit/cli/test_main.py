"""Finding commands, mistakes on the command line, exit statuses, and what is imported when."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App

from octavo import __version__
from octavo.cli import main as main_module
from octavo.cli.exit_codes import ExitCode, exit_code_of
from octavo.cli.hints import EXAMPLES
from octavo.cli.main import COMMANDS, build_app
from octavo.core.errors import (
    DeadlineExceeded,
    EngineDead,
    OctavoError,
    Overloaded,
    RequestFailed,
    UnsupportedModel,
)
from tests.command_line import CommandLine

MISTAKES: list[tuple[str, int, str, str]] = [
    # command line, exit status, error, hint
    ("runn", 2, "unknown command 'runn'", "did you mean 'run'?"),
    ("xyz", 2, "unknown command 'xyz'", "--help lists the commands"),
    ("--halp", 2, "unknown option '--halp'", "'--help'"),
    ("run MODEL more", 2, "unexpected argument 'more'", "quote an argument"),
    ("run MODEL --tempratur 1", 2, "unknown option: --tempratur", "'--temperature'"),
    ("run MODEL --n 2", 2, "unknown option: --n", "did you mean"),
    ("run --bogus", 2, "unknown option: --bogus", "octavo run --help lists its options"),
    ("bench foo", 2, 'unknown command "foo"', "octavo bench --help lists its commands"),
    ("generate", 2, "no prompt is given", "--file FILE"),
    ("generate MODEL", 2, "no prompt is given", "--file FILE"),
    ("generate MODEL a --temperature hot", 2, 'unable to convert "hot"', "takes a number; 0 is"),
    ("generate MODEL a --temperature -1", 2, "temperature must be a number", "--temperature takes"),
    ("generate MODEL a --temperature", 2, "--temperature needs a value", "takes a number"),
    ("generate MODEL a --seed 1 --seed 2", 2, "specified multiple times", "give --seed once"),
    ("generate MODEL a --n 9", 2, "n must be an integer in [1, 8]", "number of independent"),
    ("generate MODEL a --logit-bias 3", 2, "logit_bias takes token ids", "values in [-100, 100]"),
    ("generate MODEL a --stop-token-ids 999999", 2, "outside of the voc", "--stop-token-ids"),
    ("generate MODEL a b --stream", 2, "--stream shows one answer", "leave --n out"),
    ("generate MODEL a --stream --json", 2, "--json exclude each other", "leave one out"),
    ("generate MODEL a --stream --logprobs 1", 2, "--logprobs exclude each other", "leave one out"),
    ("generate MODEL a --system b", 2, "--system needs --chat", "add --chat"),
    ("generate MODEL - -", 2, "the standard input can be read only once", "give one - only"),
    ("generate MODEL --file nowhere.txt", 2, "nowhere.txt: cannot be read", "a text file"),
    ("generate MODEL a --policy first", 2, 'invalid value "first" for --policy', "who goes next"),
    ("generate MODEL a --max-num-seqs 0", 2, "max_num_seqs must be an integer", "(default: 32)"),
    ("info --num-threads 0", 2, "num_threads must be an integer", "left out: one for each core"),
    ("info --num-threads x", 2, 'unable to convert "x"', "left out: one for each core"),
    ("info --no-kv-cache --steps-in-flight 2", 2, "needs steps_in_flight=1", "--kv-cache takes"),
    ("bench kernels --num-threads 0", 2, "must be at least 1", "leave --num-threads out"),
    ("bench kernels --formats w9", 2, "unknown weight format", "formats are f32, bf16, w8, w4"),
    ("bench quality --text f --formats zzz", 2, "not a format: 'zzz'", "bf16, w8, w4 / f32"),
    ("bench quality --text f --limit-tokens -1", 2, "at least 0", "0 scores all"),
    ("bench ladder --repeat 0", 2, "repeat must be at least 1", "leave --repeat out"),
    ("batch a b --limit 0", 2, "limit must be at least 1", "leave --limit out"),
    ("--config", 2, "--config takes the path", "--config octavo.toml"),
    ("generate MODEL a --pad", 2, "pad=True", "continuous_batching=False"),
    ("generate MODEL a --max-model-len 9999", 2, "must be in [1, 512]", "config.json"),
    ("generate nowhere a", 3, "nowhere: no such folder", "hub id"),
    ("generate . a", 3, "the folder has no config.json", "config.json"),
    ("info nowhere", 3, "nowhere: no such folder", "hub id"),
    ("batch", 2, "the names of two files are needed", "octavo batch INPUT OUTPUT"),
    ("batch one.jsonl", 2, "the names of two files are needed", "octavo batch INPUT OUTPUT"),
    ("plan MODEL --users 0", 2, "--users must be >= 1", "left out, it is one"),
    ("plan MODEL --context 0", 2, "--context must be >= 1", "the model's own"),
    ("plan MODEL --memory 0", 2, "--memory must be above 0, got '0'", "as in 16GiB"),
    ("plan MODEL --memory 0.1", 2, "--memory must be above 0", "as in 16GiB"),
    ("plan MODEL --memory=-5GiB", 2, "not an amount of memory", "as in 16GiB"),
    ("plan MODEL --context 513", 2, "max_model_len must be in [1, 512]", "config.json"),
    ("plan MODEL --memory lots", 2, "not an amount of memory: 'lots'", "16GiB"),
    ("pull", 2, "REPO is missing", "octavo pull owner/name"),
    ("pull a/b --revision", 2, "--revision needs a value", "octavo pull --help"),
    ("completion", 2, "SHELL is missing", "octavo completion bash"),
    ("bench quality", 2, "--text FILE is missing", "octavo bench quality --text stories.txt"),
    ("bench quality --text", 2, "--text needs a value", "bench quality --text stories.txt"),
    ("bench engine --shape", 2, "--shape needs a value", "octavo bench engine --help"),
    ("pull gpt2", 2, "'gpt2' is not the name of a model on the hub", "owner/name"),
    ("pull a/b@c --revision d", 2, "the revision is given twice", "leave --revision"),
    ("pull a/b --revision ../c", 3, "is not a revision", "a branch, a tag or a commit"),
    ("doctor --port x", 2, 'unable to convert "x" into int', "--port takes an integer"),
    ("serve --port", 2, "--port needs a value", "--port takes an integer; octavo serve --help"),
    ("info --json=3", 2, 'unable to convert "3" into bool', "--json takes no value"),
    ("completion tcsh", 2, 'invalid value "tcsh"', "octavo completion bash"),
]


@pytest.mark.parametrize(("words", "status", "error", "hint"), MISTAKES)
def test_mistakes(
    octavo: CommandLine, model: Path, words: str, status: int, error: str, hint: str
) -> None:
    ended = octavo(*words.replace("MODEL", str(model)).split())
    assert ended.status == status
    assert ended.out == ""
    first, second = ended.err.splitlines()
    assert first.startswith("error: ")
    assert error in first
    assert second.startswith("hint: ")
    assert hint
    assert hint in second


def leaves(app: App, name: str) -> Iterator[tuple[str, App]]:
    """Every command below one, with its whole name."""
    below = [word for word in app[name] if not word.startswith("-")]
    for word in below:
        yield from ((f"{name} {rest}", leaf) for rest, leaf in leaves(app[name], word))
    if not below:
        yield name, app[name]


def test_no_flag_means_two_things() -> None:
    seen = 0
    for command in COMMANDS:
        for name, leaf in leaves(build_app(used=command.name), command.name):
            arguments = leaf.assemble_argument_collection()
            names = [word for argument in arguments for word in argument.names]
            flags = [word for word in names if word.startswith("-")]
            assert len(flags) == len(set(flags)), name
            seen += len(flags)
    assert seen > 200


def test_every_command_that_needs_an_argument_has_an_example() -> None:
    needing = set()
    for command in COMMANDS:
        for name, leaf in leaves(build_app(used=command.name), command.name):
            if any(argument.required for argument in leaf.assemble_argument_collection()):
                needing.add(name)
    assert needing == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_are_command_lines(name: str) -> None:
    program, *words = EXAMPLES[name].split()
    assert program == "octavo"
    app = build_app(used=words[0])
    _, bound, _ = app.parse_args(words, print_error=False, exit_on_error=False)
    assert bound.arguments
    assert " ".join(words).startswith(f"{name} ")


def test_version_and_no_command(octavo: CommandLine) -> None:
    assert octavo("--version").out == f"{__version__}\n"
    ended = octavo()
    assert ended.status == 0
    assert all(f"  {command.name}: " in ended.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_list_of_commands_says_what_the_command_says(command: main_module.Command) -> None:
    assert build_app(used=command.name)[command.name].help.startswith(command.summary)


def test_a_command_that_is_left_out_does_not_break_the_others(
    octavo: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = main_module.Command("missing", "Is not there.")
    monkeypatch.setattr(main_module, "COMMANDS", (*COMMANDS, missing))
    assert "missing" not in octavo("--help").out
    assert octavo("missing").status == 2
    assert octavo("info").status == 0


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (UnsupportedModel, ExitCode.MODEL),
        (Overloaded, ExitCode.ENGINE),
        (DeadlineExceeded, ExitCode.ENGINE),
        (RequestFailed, ExitCode.ENGINE),
        (EngineDead, ExitCode.ENGINE),
        (OctavoError, ExitCode.FAILURE),
    ],
)
def test_exit_codes_of_errors(kind: type[OctavoError], code: ExitCode) -> None:
    assert exit_code_of(kind("oh")) == code


def test_every_exit_code_has_a_meaning() -> None:
    assert all(code.meaning.endswith((".", ").")) for code in ExitCode)


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left", "f"), 1)]
)
def test_other_ends(
    octavo: CommandLine, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(main_module, "_run", fail)
    ended = octavo("info")
    assert ended.status == status
    assert ended.err == ("error: f: No space left\n" if status == 1 else "")


@pytest.mark.parametrize("error", [MemoryError(), OSError(12, "Cannot allocate memory")])
def test_no_memory_is_told_with_what_would_help(
    octavo: CommandLine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(main_module, "_run", fail)
    ended = octavo("info")
    assert ended.status == 1
    assert ended.err.startswith(
        "error: there is not enough memory\nhint: octavo plan says what fits"
    )


def test_help_imports_no_command_and_no_engine() -> None:
    code = (
        "import sys; from octavo.cli.main import main; main(['--help']);"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    loaded = set(done.stderr.split())
    assert "octavo.cli.layers" in loaded  # the list is what it seems to be
    heavy = {"numpy", "octavo.cli.run", "octavo.engine.engine", "tokenizers", "starlette"}
    assert not loaded & heavy


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_commands(octavo: CommandLine, shell: str) -> None:
    ended = octavo("completion", shell)
    assert ended.status == 0
    assert all(word in ended.out for word in ("generate", "doctor", "max-num-seqs"))
