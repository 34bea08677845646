"""What a model is, from its config.json and the headers of its files; no number is read."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

from octavo.cli.output import bytes_text
from octavo.core.config import EngineConfig
from octavo.core.kv_layout import PAGE_SIZE, KVGroup, page_bytes
from octavo.engine.load import make_backend
from octavo.models.generation import GenerationConfig
from octavo.models.registry import build
from octavo.models.spec import ModelSpec
from octavo.program.ir import Embed, Logits, Program
from octavo.runtime.model_text import ModelText
from octavo.weights.shards import stored_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A model in numbers."""

    folder: Path
    spec: ModelSpec
    generation: GenerationConfig
    context: int
    """Tokens of the longest sequence."""
    parameters: int
    weight_bytes: int
    """Of the weights as they are computed with."""
    repeated_bytes: int
    """Of these: a float32 table that is the head too is kept as rows and in panels."""
    weight_format: str
    kv_groups: tuple[KVGroup, ...]
    kv_format: str
    stored_bytes: dict[str, int]
    """Of the checkpoint's tensors, by format; empty where there are no weights."""
    has_tokenizer: bool
    has_chat_template: bool

    @classmethod
    def read(cls, folder: Path, config: EngineConfig | None = None) -> ModelFacts:
        """Look at a model folder, to be run with these settings.

        Raises:
            ModelError: a file is missing or damaged.
            ConfigError: the model cannot do so long sequences.
        """
        config = config or EngineConfig()
        spec = ModelSpec.read(folder)
        context = spec.resolve_max_model_len(config.max_model_len)
        program = build(spec, context)
        text = ModelText(folder)
        return cls(
            folder=folder,
            spec=spec,
            generation=text.generation,
            context=context,
            parameters=sum(prod(weight.shape) for weight in program.weights()),
            weight_bytes=make_backend(config).weight_bytes(program),
            repeated_bytes=_repeated_bytes(program) if config.weight_format == "f32" else 0,
            weight_format=config.weight_format,
            kv_groups=program.kv_groups(),
            kv_format=config.kv_format,
            stored_bytes=stored_bytes(folder),
            has_tokenizer=text.tokenizer is not None,
            has_chat_template=text.tokenizer is not None and bool(text.template.names),
        )

    @property
    def weights_text(self) -> str:
        """Weights in memory for people."""
        text = f"{bytes_text(self.weight_bytes)} ({self.weight_format}"
        if self.repeated_bytes:
            text += f"; {bytes_text(self.repeated_bytes)} of it the tied table a second time"
        return text + ")"

    @property
    def kv_bytes_a_page(self) -> int:
        """Of sixteen tokens, in all layers."""
        return sum(page_bytes(group, self.kv_format) for group in self.kv_groups)

    @property
    def kv_bytes_a_token(self) -> int:
        return self.kv_bytes_a_page // PAGE_SIZE


def _repeated_bytes(program: Program) -> int:
    """In float32, of the tables that are heads as well."""
    heads = {part.weight for part in program.operations if isinstance(part, Logits)}
    tables = {part.table for part in program.operations if isinstance(part, Embed)}
    return sum(4 * prod(table.shape) for table in tables & heads)
