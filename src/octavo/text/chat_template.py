"""Conversations to prompts, with the chat template that came with a model.

The text is what ``transformers``' ``apply_chat_template`` renders, and the token ids are those of
that text, with one difference: text in a conversation that looks like a control token
(``<|im_end|>``, typed by a user) stays text. Such text is disguised while the template runs and
encoded literally afterwards; conversations without it take no detour.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from octavo.core.checks import flag
from octavo.core.clock import Clock, monotonic
from octavo.core.errors import InvalidRequest, ModelError
from octavo.core.json_file import read_json_object
from octavo.text.chat_messages import (
    Disguise,
    checked_messages,
    disguise_pattern,
    fresh_digits,
    plain,
)
from octavo.text.template_functions import TemplateRefusal
from octavo.text.template_limits import TemplateTooCostly
from octavo.text.template_sandbox import MAX_TEMPLATE_CHARACTERS, TemplateProgram
from octavo.text.tokenizer import Tokenizer

DEFAULT_NAME = "default"
TOOLS_NAME = "tool_use"
"""The name of the template that is taken when there are tools, where a model has several."""
_OWN_VARIABLES = frozenset({"messages", "tools", "documents", "add_generation_prompt"})


class ChatTemplate:
    """The chat templates of a model. Safe for use by several threads.

    Args:
        sources: templates by name; empty where the model has none.
        tokenizer: gives the special tokens, and encodes.
        clock: bounds the time that a rendering takes.
        now: the time that templates may print.
    """

    def __init__(
        self,
        sources: Mapping[str, str],
        tokenizer: Tokenizer,
        *,
        clock: Clock = monotonic,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._sources = dict(sources)
        self._tokenizer = tokenizer
        self._special_texts = tuple(tokenizer.special_texts)
        self._disguise_pattern = disguise_pattern(self._special_texts)
        self._clock = clock
        self._now = now
        self._programs: dict[str, TemplateProgram] = {}
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: str | Path, tokenizer: Tokenizer) -> ChatTemplate:
        """Read the templates of a model folder; having none is an error only once one is needed.

        Raises:
            ModelError: a file is damaged.
        """
        return cls(_read_sources(Path(folder)), tokenizer)

    @property
    def names(self) -> list[str]:
        """Of the model's templates; empty where it has none."""
        return sorted(self._sources)

    def drops_system_messages(self) -> bool:
        """Whether a system message leaves no trace in the prompt; False where none can be rendered,
        as whoever sends one is told."""
        if not self._sources:
            return False
        mark = fresh_digits()
        messages = [{"role": "system", "content": mark}, {"role": "user", "content": "Hello"}]
        try:
            return mark not in self.render_chat(messages)
        except (InvalidRequest, ModelError):
            return False

    def render_chat(self, messages: Any, /, **options: Any) -> str:
        """The prompt as text, for people to read. Arguments and errors as in ``encode_chat``."""
        text, disguise = self._render(messages, **options)
        return disguise.take_off(text)

    def encode_chat(
        self,
        messages: Any,
        /,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        template: str | None = None,
        **variables: Any,
    ) -> list[int]:
        """The prompt as token ids.

        Args:
            messages: objects with a ``role`` and a ``content``, which is a string or a list of
                text parts; assistants' messages may have ``tool_calls``.
            tools: JSON schemas of functions that the model may call.
            documents: objects with ``title`` and ``text``, for templates that take them.
            add_generation_prompt: end with the beginning of an assistant's message. By default,
                unless ``continue_final_message`` is set.
            continue_final_message: end within the last message, so that the model goes on with it.
            template: the name of a template, where the model has several.
            variables: further ones that the template reads, such as ``enable_thinking``.

        Raises:
            InvalidRequest: the messages are malformed, or the template refuses them.
            ModelError: the model has no chat template, or one that is broken.
        """
        text, disguise = self._render(
            messages,
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            template=template,
            **variables,
        )
        return self._tokenizer.encode_template(text, disguise.literals)

    def _render(
        self,
        messages: Any,
        /,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        template: str | None = None,
        **variables: Any,
    ) -> tuple[str, Disguise]:
        """The rendered text, in which control tokens of the conversation are disguised."""
        flag("continue_final_message", continue_final_message)
        if add_generation_prompt is None:
            add_generation_prompt = not continue_final_message
        flag("add_generation_prompt", add_generation_prompt)
        if continue_final_message and add_generation_prompt:
            raise InvalidRequest(
                "continue_final_message and add_generation_prompt exclude each other",
                param="continue_final_message",
            )
        if reserved := _OWN_VARIABLES & variables.keys():
            raise InvalidRequest(f"a template's own variable {min(reserved)!r} cannot be set")
        program = self._program(self._choose(template, tools))
        disguise = Disguise(self._disguise_pattern)
        chat = disguise.put_on(
            checked_messages(
                messages, takes_parts=program.takes_parts, special_texts=self._special_texts
            )
        )
        end_mark = _mark_end(chat[-1]) if continue_final_message else None
        text = self._run(
            program,
            {
                **self._tokenizer.names,
                **disguise.put_on(plain(variables, "template options")),
                "messages": chat,
                "tools": disguise.put_on(_objects(tools, "tools")),
                "documents": disguise.put_on(_objects(documents, "documents")),
                "add_generation_prompt": add_generation_prompt,
            },
        )
        return (text if end_mark is None else _cut_at(text, end_mark)), disguise

    def _run(self, program: TemplateProgram, variables: dict[str, Any]) -> str:
        try:
            return program.render(variables, clock=self._clock)
        except TemplateRefusal as error:
            raise InvalidRequest(str(error), param="messages") from error
        except TemplateTooCostly as error:
            raise InvalidRequest(
                f"the chat template costs too much on this conversation: {error}",
                param="messages",
            ) from error
        except Exception as error:  # a template is foreign code: it may run into anything
            raise InvalidRequest(
                f"the model's chat template fails on this conversation: {error}",
                param="messages",
                hint="some templates want every content to be a string, or roles in a fixed order",
            ) from error

    def _choose(self, name: str | None, tools: object) -> str:
        """The source of the template to use, as Hugging Face chooses it."""
        if not self._sources:
            raise ModelError(
                "this model has no chat template",
                hint="give a prompt instead of messages, or put a chat_template.jinja into its"
                " folder",
            )
        if name is None:
            has_own = tools is not None and TOOLS_NAME in self._sources
            name = TOOLS_NAME if has_own else DEFAULT_NAME
        if not isinstance(name, str) or name not in self._sources:
            raise InvalidRequest(
                f"this model has no chat template {name!r}",
                param="template",
                hint="it has " + ", ".join(map(repr, self.names)),
            )
        return self._sources[name]

    def _program(self, source: str) -> TemplateProgram:
        with self._lock:
            if source not in self._programs:
                self._programs[source] = TemplateProgram(source, now=self._now)
            return self._programs[source]


def _objects(values: Any, param: str) -> list[dict[str, Any]] | None:
    if values is None:
        return None
    checked = plain(values, param)
    if not isinstance(checked, list) or not all(isinstance(item, dict) for item in checked):
        raise InvalidRequest(f"{param} must be a list of objects", param=param)
    return checked


def _mark_end(message: dict[str, Any]) -> tuple[str, str]:
    """Put a mark behind a message's text. Returns that text and the mark.

    The mark ends in a space, which shows whether the template trims what it is given.
    """
    mark = fresh_digits() + " "
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = content + mark
        return content, mark
    if not content:
        raise InvalidRequest(
            "continue_final_message: the last message has no content to go on with",
            param="messages",
        )
    text: str = content[-1]["text"]
    content[-1]["text"] = text + mark
    return text, mark


def _cut_at(text: str, end: tuple[str, str]) -> str:
    """What the template wrote up to the mark."""
    message_text, mark = end
    place = text.rfind(mark.strip())
    if place < 0 or message_text.strip() not in text:
        raise InvalidRequest(
            "continue_final_message: the model's chat template changes the last message",
            param="continue_final_message",
        )
    kept = text[:place]
    return kept if text.startswith(mark, place) else kept.rstrip()


def _read_sources(folder: Path) -> dict[str, str]:
    """Templates by name. Files of their own go before tokenizer_config.json."""
    sources: dict[str, str] = {}
    main = folder / "chat_template.jinja"
    if main.is_file():
        sources[DEFAULT_NAME] = _read_text(main)
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        sources[path.stem] = _read_text(path)
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = folder / name
        if not sources and path.is_file():
            sources = _named(read_json_object(path).get("chat_template"), path)
    return sources


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > 4 * MAX_TEMPLATE_CHARACTERS:
            raise ModelError(f"{path}: larger than any chat template")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error


def _named(value: Any, path: Path) -> dict[str, str]:
    """A template as such, or a list of templates with names."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT_NAME: value}
    items = value if isinstance(value, list) else [value]
    sources: dict[str, str] = {}
    for item in items:
        match item:
            case {"name": str(name), "template": str(template)}:
                sources[name] = template
            case _:
                raise ModelError(
                    f"{path}: chat_template is neither a string nor a list of named templates"
                )
    return sources
