"""A conversation in the terminal: what was said, how answers are sampled, the ``/`` commands."""

from __future__ import annotations

import asyncio
import json
import math
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from octavo.cli.loading import SYSTEM_IS_DROPPED
from octavo.cli.settings import SAMPLING, show_value
from octavo.cli.terminal import Screen, write_privately
from octavo.core.clock import Clock
from octavo.core.errors import ConfigError, InvalidRequest, did_you_mean
from octavo.core.events import FinishReason
from octavo.core.request import SamplingParams
from octavo.engine.engine import EngineStats
from octavo.runtime.async_client import AsyncClient
from octavo.runtime.model_text import EncodedPrompt
from octavo.runtime.outputs import RequestOutput

NOT_IN_A_SESSION = ("n", "logprobs", "prompt_logprobs")
SETTINGS = {setting.name: setting for setting in SAMPLING if setting.name not in NOT_IN_A_SESSION}
FILE_FORMAT = "octavo conversation 1"
ROOM = 1 / 3
"""The part of the context that a conversation leaves to the next answer at least. A quarter would
cut some of the built-in model's stories: its context is 1,024 and they have 220 to 300 tokens."""
MIN_RATE_S = 0.02
MIN_RATE_TOKENS = 2
"""Answers that took less after their first token say nothing about the speed."""

HELP = """\
/help              this list
/reset             forget the conversation, keep the system message
/system [TEXT]     show or set the system message; off removes it
/set [NAME VALUE]  show or set how answers are sampled; VALUE default undoes it
/stats             what the engine has done
/save FILE         write the conversation to a file
/load FILE         go on with a conversation that was saved
/quit              leave (as Ctrl-D does)
A line that ends in \\ goes on in the next; \"\"\" begins and ends a message of many lines.
Ctrl-C stops an answer."""


@dataclass(slots=True)
class Conversation:
    """What was said so far."""

    system: str | None = None
    turns: list[dict[str, str]] = field(default_factory=list)
    num_left_out: int = field(default=0, compare=False)
    """Of the turns, the oldest, which no longer fit into the context. They are kept here."""

    def starts(self) -> list[int]:
        """Turns that a prompt can begin with, from what is in it now to the new message alone."""
        first, end = self.num_left_out, len(self.turns)
        questions = [index for index in range(first, end) if self.turns[index]["role"] == "user"]
        return sorted({first, *questions, end})

    def with_message(self, text: str, start: int) -> list[dict[str, str]]:
        """The messages for a chat template: the turns from ``start`` on, a new one of the user."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, *self.turns[start:], {"role": "user", "content": text}]

    def add(self, text: str, answer: str) -> None:
        self.turns.append({"role": "user", "content": text})
        self.turns.append({"role": "assistant", "content": answer})


class Session:
    """Answers messages one after the other; all on the event loop of its client.

    Args:
        client: of the model.
        model: what the user calls it.
        is_chat: answer through the chat template; otherwise each message is completed as it is.
        sampling: what the user set of ``SamplingParams``.
        screen: where answers go.
    """

    def __init__(
        self,
        client: AsyncClient,
        *,
        model: str,
        is_chat: bool,
        system: str | None,
        sampling: dict[str, Any],
        screen: Screen,
        clock: Clock = time.monotonic,
    ) -> None:
        self._client = client
        self._model = model
        self._is_chat = is_chat
        self._sampling = sampling
        self._screen = screen
        self._clock = clock
        self.conversation = Conversation()
        self._last = ""
        self._params()  # wrong values are told before the first message
        if system is not None:
            self._set_system(system)
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: self._screen.say(HELP),
            "/reset": self._reset,
            "/system": self._show_or_set_system,
            "/set": self._set,
            "/save": self._save,
            "/load": self._load,
        }

    async def answer(self, text: str) -> bool:
        """Stream the answer to a message; False if it was stopped.

        The oldest turns are left out of the prompt once it leaves too little room for an answer.
        Cancelling stops the answer only; what was said by then counts as said.

        Raises:
            OctavoError: the message cannot be answered; the conversation is as it was.
        """
        started_s = self._clock()
        first_s: float | None = None
        finished = True
        params = self._params()
        async with self._client.start(self._encode(text, params), params) as answer:
            try:
                async for delta in answer:
                    if first_s is None:
                        first_s = self._clock()
                    self._screen.write(delta.text)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
                finished = False
            output = answer.so_far()
        self._screen.end_line()
        if finished or output.text:
            self.conversation.add(text, output.text)
        self._last = _status(output, params.max_tokens, started_s, first_s, self._clock())
        return finished

    def greet(self, text: str) -> None:
        """Say something before or between messages."""
        self._screen.note(text)

    def note_speed(self) -> None:
        """A line about the last answer."""
        self._screen.note(self._last)

    def command(self, line: str) -> None:
        """Do what a line that begins with a slash asks for, other than /quit and /stats.

        Raises:
            OctavoError: it cannot be done; nothing has changed.
            OSError: a file cannot be read or written.
        """
        name, _, rest = line.partition(" ")
        if name not in self._commands:
            hint = did_you_mean(name, [*self._commands, "/stats", "/quit"])
            raise ConfigError(f"unknown command {name!r}", hint=hint or "/help lists them")
        self._commands[name](rest.strip())

    async def show_stats(self) -> None:
        """What the engine has done since it was loaded."""
        self._screen.say(_stats_text(await self._client.stats()))

    def _params(self) -> SamplingParams:
        room = self._client.max_model_len
        return self._client.text.generation.params(**{"max_tokens": room, **self._sampling})

    def _encode(self, text: str, params: SamplingParams) -> EncodedPrompt:
        """The prompt, with as many of the turns as leave room for an answer."""
        if not self._is_chat:
            return self._client.text.encode(text)
        conversation, context = self.conversation, self._client.max_model_len
        room = min(params.max_tokens, math.ceil(context * ROOM))

        def encode(start: int) -> EncodedPrompt:
            return self._client.text.encode_chat(conversation.with_message(text, start))

        def fits(prompt: EncodedPrompt) -> bool:
            return len(prompt.token_ids) + room <= context

        starts = conversation.starts()
        prompt = encode(starts[0])
        if fits(prompt):
            return prompt
        # As few turns as will do; encoding is what costs, so that not each number of them is tried.
        # A message that leaves too little room even alone is sent alone, and the engine refuses
        # it if there is none: then nothing is left out, as the next message may be shorter.
        last = len(starts) - 1
        start = starts[bisect_left(starts, True, hi=last, key=lambda start: fits(encode(start)))]
        prompt = encode(start)
        if len(prompt.token_ids) < context and start > conversation.num_left_out:
            conversation.num_left_out = start
            self._screen.note(f"(the oldest {start} messages no longer fit and are left out)")
        return prompt

    def _reset(self, _: str) -> None:
        self.conversation = Conversation(self.conversation.system)
        self._screen.note("the conversation is forgotten")

    def _show_or_set_system(self, text: str) -> None:
        if text:
            self._set_system(None if text == "off" else text)
        self._screen.note(f"system: {self.conversation.system or 'none'}")
        if self.conversation.system and self._client.text.template.drops_system_messages():
            self._screen.note(SYSTEM_IS_DROPPED)

    def _set_system(self, text: str | None) -> None:
        if not self._is_chat:
            raise InvalidRequest(
                "a system message needs a chat template", hint="each message is completed as it is"
            )
        self.conversation.system = text

    def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        if not name:
            for setting in SETTINGS:
                self._show(setting)
            return
        if name not in SETTINGS:
            raise ConfigError(f"unknown setting {name!r}", hint=did_you_mean(name, SETTINGS))
        if value:
            before = dict(self._sampling)
            self._sampling.pop(name, None)
            try:
                if value.strip() != "default":
                    self._sampling[name] = SETTINGS[name].parse(value.strip())
                self._params()
            except (ConfigError, InvalidRequest):
                self._sampling = before
                raise
        self._show(name)

    def _show(self, name: str) -> None:
        value = show_value(getattr(self._params(), name))
        self._screen.note(f"{name} = {value}" + ("" if name in self._sampling else "  (default)"))

    def _save(self, name: str) -> None:
        path = _required_path(name)
        if path.exists():
            _read_conversation(path)  # never overwrite what is not ours
        content = {
            "format": FILE_FORMAT,
            "model": self._model,
            "system": self.conversation.system,
            "turns": self.conversation.turns,
            "sampling": self._sampling,
        }
        write_privately(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
        self._screen.note(f"saved {len(self.conversation.turns)} messages to {path}")

    def _load(self, name: str) -> None:
        path = _required_path(name)
        self.conversation = _read_conversation(path)
        if not self._is_chat:
            self.conversation.system = None
        self._screen.note(f"loaded {len(self.conversation.turns)} messages from {path}")


def _required_path(name: str) -> Path:
    if not name:
        raise ConfigError("the name of a file is missing", hint="as in /save story.json")
    return Path(name).expanduser()


def _read_conversation(path: Path) -> Conversation:
    hint = "files that /save wrote can be read; others are never overwritten"
    try:
        match json.loads(path.read_text(encoding="utf-8")):
            case {"format": "octavo conversation 1", "system": str() | None as system} as values:
                return Conversation(system, [_turn(turn) for turn in values["turns"]])
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ConfigError(f"{path}: not a saved conversation", hint=hint)


def _turn(value: Any) -> dict[str, str]:
    match value:
        case {"role": "user" | "assistant" as role, "content": str(content)}:
            return {"role": role, "content": content}
    raise ValueError(value)


def _status(
    output: RequestOutput, max_tokens: int, started_s: float, first_s: float | None, now_s: float
) -> str:
    """How fast an answer was, and why it ended where that was not its own end."""
    usage = output.usage
    parts = [f"{usage.completion_tokens} tokens"]
    if first_s is not None:
        num_later, later_s = usage.completion_tokens - 1, now_s - first_s
        if num_later >= MIN_RATE_TOKENS and later_s >= MIN_RATE_S:
            rate = num_later / later_s
            parts.append(f"{rate:.{0 if rate >= 100 else 1}f} tokens/s")
        parts.append(f"first after {_seconds_text(first_s - started_s)}")
    prompt = f"prompt of {usage.prompt_tokens}"
    parts.append(f"{prompt}, {usage.cached_tokens} cached" if usage.cached_tokens else prompt)
    match output.choices[0].finish_reason:
        case None:
            parts.append("stopped")
        case FinishReason.LENGTH if usage.completion_tokens >= max_tokens:
            parts.append("cut off: --max-tokens")
        case FinishReason.LENGTH:
            parts.append("cut off: the context is full")
    return f"[{' · '.join(parts)}]"


def _seconds_text(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1000:.1f} ms"


def _stats_text(stats: EngineStats) -> str:
    scheduler = stats.scheduler
    pages = [
        f"{group.held} held, {group.cached} cached, {group.free} free" for group in scheduler.pages
    ]
    rows = [
        ("requests", f"{scheduler.requests}"),
        ("steps", f"{stats.steps}"),
        ("tokens computed", f"{scheduler.computed_tokens}"),
        ("tokens found in the cache", f"{scheduler.hit_tokens}"),
        *(("pages", text) for text in pages),
        ("seconds in the model", f"{stats.run_s:.2f}"),
        (
            "seconds around it",
            f"{stats.plan_s + stats.batch_s + stats.result_s + stats.apply_s:.2f}",
        ),
    ]
    return "\n".join(f"{name:26} {value}" for name, value in rows)
