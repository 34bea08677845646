"""``octavo run``: talk to a model in the terminal, or answer what is piped in."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from contextlib import closing

from octavo.cli.exit_codes import ExitCode
from octavo.cli.loading import SYSTEM_IS_DROPPED, LoadedModel, load_model
from octavo.cli.output import dim, print_error, show_warnings
from octavo.cli.session import Session
from octavo.cli.settings import ChatFlags, EngineFlags, given
from octavo.cli.terminal import LineReader, Screen, history_path, read_message
from octavo.core.errors import EngineDead, InvalidRequest, ModelNotFound, OctavoError
from octavo.models.builtin import BUILTIN
from octavo.runtime.async_client import AsyncClient

MESSAGES_COME_LATER = (
    'messages are typed after the start: octavo run; or, for one: octavo generate --chat "..."'
)
"""What to tell somebody who gave one in the place of the model."""


def run(
    model: str = BUILTIN,
    /,
    *,
    system: str | None = None,
    chat: bool | None = None,
    tokenizer: str | None = None,
    history: bool = True,
    sampling: ChatFlags | None = None,
    engine: EngineFlags | None = None,
) -> int:
    """Talk to a model in the terminal.

    With a chat template it is a conversation; without one, each message is completed. What is
    piped in is one message: the answer goes to stdout, and that is all. In a conversation, /help
    lists the commands, Ctrl-C stops an answer, Ctrl-D ends the session.

    The built-in model is a small teller of stories.

    Args:
        model: a model folder, a model on the hub as owner/name or owner/name@revision, or
            builtin.
        system: the system message.
        chat: use the chat template; by default where the model has one.
        tokenizer: a folder to take the tokeniser from, instead of the model's own.
        history: remember what is typed, in octavo/history of the user's state folder.
    """
    show_warnings()
    is_terminal = sys.stdin.isatty()
    message = None if is_terminal else _read_all(model)
    if is_terminal:
        print(dim(_loading_line(model), sys.stderr), file=sys.stderr)
    try:
        loaded = load_model(model, tokenizer, engine)
    except ModelNotFound as error:
        if not _may_be_a_message(model):
            raise
        hint = f"{error.hint}; {MESSAGES_COME_LATER}"
        raise ModelNotFound(error.message, hint=hint) from error
    if is_terminal and loaded.note is not None:
        print(dim(loaded.note, sys.stderr), file=sys.stderr)
    is_chat = bool(loaded.text.template.names) if chat is None else chat
    if system is not None and is_chat and loaded.text.template.drops_system_messages():
        print(dim(SYSTEM_IS_DROPPED, sys.stderr), file=sys.stderr)
    with asyncio.Runner() as runner:
        client = runner.run(_open(loaded))
        try:
            session = Session(
                client,
                model=loaded.name,
                is_chat=is_chat,
                system=system,
                sampling=given(sampling),
                screen=Screen(),
            )
            if message is not None:
                finished = runner.run(session.answer(message))
                return ExitCode.OK if finished else ExitCode.INTERRUPTED
            kind = "a conversation" if is_chat else "completions: the model has no chat template"
            session.greet(f"{kind} · context {client.max_model_len} · /help")
            with closing(LineReader(history_path(os.environ) if history else None)) as lines:
                _talk(session, lines, runner)
            return ExitCode.OK
        finally:
            runner.run(client.close())


def _may_be_a_message(model: str) -> bool:
    """Whether somebody who typed this in the place of a model may have meant to say it."""
    is_path = "/" in model and not re.search(r"\s", model)
    return model != BUILTIN and not is_path and not os.path.exists(model)


def _loading_line(model: str) -> str:
    if model == BUILTIN:
        return "the built-in model: a small teller of stories; octavo run MODEL talks to another"
    return f"loading {model} ..."


async def _open(loaded: LoadedModel) -> AsyncClient:
    return AsyncClient(loaded.engine, loaded.text)


def _talk(session: Session, lines: LineReader, runner: asyncio.Runner) -> None:
    """One message after the other, until there are no more."""
    while True:
        try:
            message = read_message(lines.read)
        except KeyboardInterrupt:
            session.greet("\nCtrl-D or /quit leaves")
            continue
        if message is None:
            print()  # the shell's prompt begins on a line of its own
            return
        if message.strip() == "/quit":
            return
        try:
            _obey(session, message.strip(), runner)
        except EngineDead:
            raise
        except OctavoError as error:
            print_error(error.message, error.hint)
        except OSError as error:
            print_error(f"{error.filename}: {error.strerror}")


def _obey(session: Session, message: str, runner: asyncio.Runner) -> None:
    if not message:
        return
    if message == "/stats":
        runner.run(session.show_stats())
    elif message.startswith("/"):
        session.command(message)
    else:
        runner.run(session.answer(message))
        session.note_speed()


def _read_all(model: str) -> str:
    """The one message that is piped in. Raises InvalidRequest."""
    try:
        message = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the input is not UTF-8 at byte {error.start}") from error
    message = message.removesuffix("\n")
    if not message:
        hint = "echo 'Tell me a story' | octavo run"
        if _may_be_a_message(model):
            hint += f"; {MESSAGES_COME_LATER}"
        raise InvalidRequest("the input is empty", hint=hint)
    return message
