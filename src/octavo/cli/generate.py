"""``octavo generate``: complete prompts, once, as text or as JSON."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from octavo.cli.exit_codes import ExitCode, exit_code_of
from octavo.cli.hints import hint_of_value
from octavo.cli.loading import SYSTEM_IS_DROPPED
from octavo.cli.output import dim, print_error, print_json, show_warnings
from octavo.cli.precision import precision_note
from octavo.cli.settings import COMPLETION_MAX_TOKENS, CompletionFlags, EngineFlags, given
from octavo.cli.terminal import Screen
from octavo.core.config import EngineConfig
from octavo.core.errors import ConfigError, InvalidRequest, ModelNotFound
from octavo.core.request import SamplingParams
from octavo.core.step import TokenLogprobs
from octavo.models.builtin import BUILTIN
from octavo.models.folder import resolve
from octavo.runtime.llm import LLM
from octavo.runtime.outputs import ChoiceOutput, RequestOutput
from octavo.text.tokenizer import Tokenizer

STDIN = "-"


def generate(
    model: str | None = None,
    /,
    *prompts: str,
    file: Annotated[list[Path] | None, Parameter(negative="")] = None,
    chat: Annotated[bool, Parameter(negative="")] = False,
    system: str | None = None,
    stream: bool | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
    tokenizer: str | None = None,
    sampling: CompletionFlags | None = None,
    engine: EngineFlags | None = None,
) -> int:
    """Complete prompts, once.

    The answer goes to stdout. Several answers, be it to several prompts or with --n, have a line
    before each, and are counted from 0; with --json there is one object a line for each prompt.

    The first argument is the model; one that stands alone, without --file, is a prompt for the
    built-in model. Several prompts for that: octavo generate builtin PROMPT PROMPT.

    Args:
        model: a model folder, or a model on the hub as owner/name or owner/name@revision; by
            default the built-in one.
        prompts: what to complete; - reads a prompt from the standard input.
        file: a file that holds a prompt; may be given several times.
        chat: each prompt is a user's message, to be answered through the chat template.
        system: with --chat, the system message.
        stream: show the answer while it comes; by default for one answer on a terminal.
        json: machine-readable output, with token ids, logprobs and usage.
        tokenizer: a folder to take the tokeniser from, instead of the model's own.
    """
    files = file or []
    if model is not None and not prompts and not files:
        model, prompts = BUILTIN, (_lone_prompt(model),)
    texts = _read_prompts(prompts, files)
    if system is not None and not chat:
        raise ConfigError("--system needs --chat", hint="add --chat, or put it into the prompt")
    values = given(sampling)
    is_single = len(texts) == 1 and values.get("n", 1) == 1
    is_streamed = _decide_stream(stream, is_single, json, "logprobs" in values)
    show_warnings()
    config = EngineConfig.from_options(given(engine))
    folder = _find(BUILTIN if model is None else model, config)
    with LLM(folder, tokenizer=tokenizer, **given(engine)) as llm:
        note = None if json or not sys.stderr.isatty() else precision_note(folder, config)
        if note is not None:
            print(dim(note, sys.stderr), file=sys.stderr)
        if system is not None and llm.text.template.drops_system_messages():
            print(dim(SYSTEM_IS_DROPPED, sys.stderr), file=sys.stderr)
        params = llm.sampling_params(**{"max_tokens": COMPLETION_MAX_TOKENS, **values})
        if is_streamed:
            _stream(llm, _messages(texts[0], system) if chat else texts[0], params)
            return ExitCode.OK
        if chat:
            outputs = llm.chat([_messages(text, system) for text in texts], params)
        else:
            outputs = llm.generate(texts, params)
        return _print_all(llm.text.tokenizer, texts, outputs, as_json=json)


def _find(model: str, config: EngineConfig) -> Path:
    """The model's folder; who gave a prompt in its place is told where that belongs."""
    try:
        return resolve(model, weights=config.load_format != "dummy")
    except ModelNotFound as error:
        if "/" in model and not re.search(r"\s", model):
            raise
        hint = f"{error.hint}; if it is meant as a prompt: octavo generate {BUILTIN} PROMPT PROMPT"
        raise ModelNotFound(error.message, hint=hint) from error


def _lone_prompt(word: str) -> str:
    """The only argument, which is a prompt for the built-in model.

    Raises:
        ConfigError: it looks as if a model were meant, and its prompt missing.
    """
    looks_like_path = "/" in word and not re.search(r"\s", word)
    if word == BUILTIN or looks_like_path or os.path.isdir(word):
        raise ConfigError(
            f"no prompt is given for the model {word}",
            hint=f"octavo generate {word} 'Once upon a time', --file FILE, or -; if it is meant as"
            f" a prompt: octavo generate {BUILTIN} {word}",
        )
    return word


def _read_prompts(prompts: Sequence[str], files: Sequence[Path]) -> list[str]:
    """All prompts, those on the command line first.

    Raises:
        ConfigError: there is none, or one cannot be read.
    """
    if prompts.count(STDIN) > 1:
        raise ConfigError("the standard input can be read only once", hint="give one - only")
    texts = [_read_stdin() if prompt == STDIN else prompt for prompt in prompts]
    for path in files:
        try:
            texts.append(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            message = f"{path}: not UTF-8 at byte {error.start}"
            raise ConfigError(message, hint="a prompt is a text file in UTF-8") from error
        except OSError as error:
            message = f"{path}: cannot be read: {error.strerror or error}"
            raise ConfigError(message, hint="--file takes the path of a text file") from error
    if not texts:
        raise ConfigError(
            "no prompt is given", hint="octavo generate 'Once upon a time', --file FILE, or -"
        )
    return texts


def _read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        message = f"the input is not UTF-8 at byte {error.start}"
        raise ConfigError(message, hint="a prompt is text in UTF-8") from error


def _decide_stream(wanted: bool | None, is_single: bool, json: bool, scores: bool) -> bool:
    if wanted is None:
        return is_single and not json and not scores and sys.stdout.isatty()
    if wanted and json:
        raise ConfigError("--stream and --json exclude each other", hint="leave one out")
    if wanted and scores:
        raise ConfigError("--stream and --logprobs exclude each other", hint="leave one out")
    if wanted and not is_single:
        raise InvalidRequest("--stream shows one answer", hint="give one prompt and leave --n out")
    return wanted


def _messages(text: str, system: str | None) -> list[dict[str, str]]:
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": text}]


def _stream(llm: LLM, prompt: str | list[dict[str, str]], params: SamplingParams) -> None:
    screen = Screen()
    for delta in llm.stream(prompt, params):
        screen.write(delta.text)
    screen.end_line()


def _print_all(
    tokenizer: Tokenizer | None,
    texts: Sequence[str],
    outputs: Sequence[RequestOutput],
    *,
    as_json: bool,
) -> ExitCode:
    """Every answer; the exit status says whether a request failed. LLM counts from 0, so do we."""
    status = ExitCode.OK
    screen = Screen()
    for number, (text, output) in enumerate(zip(texts, outputs, strict=True)):
        if as_json:
            print_json(_as_json(tokenizer, text, output))
        if output.error is not None:
            hint = output.error.hint or hint_of_value(output.error.message)
            print_error(f"prompt {number}: {output.error.message}", hint)
            status = exit_code_of(output.error)
            continue
        for choice in () if as_json else output.choices:
            if len(outputs) > 1 or len(output.choices) > 1:
                screen.say(f"==> prompt {number}, answer {choice.index} <==")
            screen.write(choice.text)
            screen.end_line()
            for line in _score_lines(tokenizer, choice):
                screen.say(line)
    return status


def _score_lines(tokenizer: Tokenizer | None, choice: ChoiceOutput) -> list[str]:
    """A line for each token: its logprob, itself, and what else was likely."""
    lines = []
    for token_id, scores in zip(choice.token_ids, choice.logprobs or (), strict=False):
        token = _scored(tokenizer, token_id, scores)
        others = "  ".join(f"{top['token']!r} {top['logprob']:.3f}" for top in token["top"])
        lines.append(f"{token['logprob']:9.4f}  {token['token']!r:14} {others}".rstrip())
    return lines


def _as_json(tokenizer: Tokenizer | None, text: str, output: RequestOutput) -> dict[str, Any]:
    usage, error = output.usage, output.error
    scores = output.prompt_logprobs
    prompt_scores = None
    if scores is not None:
        prompt_scores = [
            None if one is None else _scored(tokenizer, token, one)
            for token, one in zip(output.prompt_token_ids, scores, strict=False)
        ]
    return {
        "prompt": text,
        "choices": [
            {
                "index": choice.index,
                "text": choice.text,
                "token_ids": list(choice.token_ids),
                "logprobs": None
                if choice.logprobs is None
                else [
                    _scored(tokenizer, token, one)
                    for token, one in zip(choice.token_ids, choice.logprobs, strict=True)
                ],
                "finish_reason": choice.finish_reason,
                "stop_reason": choice.stop_reason,
            }
            for choice in output.choices
        ],
        "prompt_logprobs": prompt_scores,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
        },
        "error": None
        if error is None
        else {"code": error.code, "message": error.message, "hint": error.hint},
    }


def _scored(tokenizer: Tokenizer | None, token_id: int, scores: TokenLogprobs) -> dict[str, Any]:
    def named(token: int, logprob: float) -> dict[str, Any]:
        text = None if tokenizer is None else tokenizer.decode([token])
        return {"token_id": token, "token": text, "logprob": logprob}

    top = zip(scores.top_ids, scores.top_logprobs, strict=True)
    return named(token_id, scores.logprob) | {"top": [named(*one) for one in top]}
