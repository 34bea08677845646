"""A model's text side: prompts and conversations to token ids, and what answers are read with.

It needs the folder only, no weights and no engine, and is shared by every kind of client.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from octavo.core import checks
from octavo.core.errors import InvalidRequest
from octavo.core.request import NUM_SEEDS, Priority, Request, SamplingParams
from octavo.models.builtin import BUILTIN
from octavo.models.folder import resolve
from octavo.models.generation import GenerationConfig
from octavo.runtime.outputs import OutputAssembler
from octavo.text.chat_template import ChatTemplate
from octavo.text.tokenizer import Tokenizer

TOKENIZER_FILE = "tokenizer.json"
Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt on its way to the engine; ``text`` is None where it was not given as text."""

    text: str | None
    token_ids: tuple[int, ...]


class ModelText:
    """The tokeniser, chat template and end tokens of a model.

    Args:
        folder: the model's.
        tokenizer_folder: where the tokeniser is; None: in the model's folder, and a model without
            one speaks token ids only.

    Raises:
        ModelError: a file is missing or damaged.
    """

    def __init__(self, folder: Path, tokenizer_folder: Path | None = None) -> None:
        self.generation = GenerationConfig.read(folder)
        self.tokenizer: Tokenizer | None = None
        self._folder = tokenizer_folder or folder
        if tokenizer_folder is not None or (folder / TOKENIZER_FILE).exists():
            self.tokenizer = Tokenizer.load(self._folder)
        self._template: ChatTemplate | None = None

    @classmethod
    def load(cls, folder: Path, tokenizer: str | Path | None = None) -> ModelText:
        """The text side of a model; ``tokenizer`` is a folder, a hub id or ``builtin``.

        Raises:
            ModelError: a file is missing or damaged.
        """
        if tokenizer is None:
            return cls(folder)
        is_path = isinstance(tokenizer, str | Path) and tokenizer != BUILTIN
        if is_path and Path(tokenizer).is_dir():
            return cls(folder, Path(tokenizer))
        return cls(folder, resolve(tokenizer, weights=False))

    @property
    def template(self) -> ChatTemplate:
        """The chat template. Raises InvalidRequest when there is no tokeniser to use it with."""
        if self._template is None:
            self._template = ChatTemplate.load(self._folder, self._require_tokenizer("messages"))
        return self._template

    def encode(self, prompt: str | Sequence[int]) -> EncodedPrompt:
        """Text, or token ids as they are: a sequence or an array of integers.

        Raises:
            InvalidRequest: the prompt is neither, or is text and there is no tokeniser.
        """
        if isinstance(prompt, str):
            tokenizer = self._require_tokenizer("prompt")
            if not checks.is_unicode(prompt):
                raise InvalidRequest("the prompt has half of a surrogate pair", param="prompt")
            return EncodedPrompt(prompt, tuple(tokenizer.encode(prompt)))
        return EncodedPrompt(None, _as_token_ids(prompt))

    def encode_chat(
        self, messages: Sequence[Message], options: Mapping[str, Any] | None = None
    ) -> EncodedPrompt:
        """A conversation through the chat template; options as in ``ChatTemplate.encode_chat``.

        Raises:
            InvalidRequest: a message that the template does not take.
            ModelError: the model has no chat template.
        """
        options = options or {}
        if not all(isinstance(name, str) for name in options):
            raise InvalidRequest("the names of template options must be strings")
        return EncodedPrompt(None, tuple(self.template.encode_chat(messages, **options)))

    def assembler(
        self,
        prompt: EncodedPrompt,
        params: SamplingParams,
        *,
        request_id: str,
        priority: Priority = Priority.STANDARD,
        tenant: str = "",
        deadline_s: float | None = None,
    ) -> OutputAssembler:
        """The request, with a seed, and what will put its answer together.

        Raises:
            InvalidRequest: stop strings are wanted, but there is no tokeniser.
        """
        if params.seed is None:  # fixed here, so that a resumed request draws the same
            params = msgspec.structs.replace(params, seed=secrets.randbelow(NUM_SEEDS))
        request = Request(
            request_id=request_id,
            prompt_ids=prompt.token_ids,
            params=params,
            priority=priority,
            tenant=tenant,
            deadline_s=deadline_s,
        )
        return OutputAssembler(
            request, self.tokenizer, end_ids=self.generation.end_token_ids, prompt=prompt.text
        )

    def _require_tokenizer(self, param: str) -> Tokenizer:
        if self.tokenizer is None:
            raise InvalidRequest(
                "the model has no tokeniser, so that prompts must be token ids",
                param=param,
                hint="give the folder of a tokeniser, or a list of token ids as the prompt",
            )
        return self.tokenizer


def _as_token_ids(prompt: Any) -> tuple[int, ...]:
    if isinstance(prompt, list | tuple) or hasattr(prompt, "tolist"):
        return checks.token_ids("prompt", prompt)
    raise InvalidRequest(
        f"a prompt must be a string or a list of token ids, got {checks.shown(prompt)}",
        param="prompt",
    )
