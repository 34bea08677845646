"""What a checkpoint has against what a model wants: everything that is wrong, in one error.

Only names, types and shapes are compared; no number is read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from octavo.core.errors import ModelError, did_you_mean
from octavo.program.ir import Weight
from octavo.weights.safetensors import READABLE, TensorInfo

BARE_PREFIXES = ("model.", "transformer.")
"""A checkpoint saved from the bare model, without its head, lacks this prefix in every name."""

HARMLESS_EXTRAS = (
    (re.compile(r"(^|\.)rotary_emb\.inv_freq$"), "rope frequencies, computed from config.json"),
    (re.compile(r"(^|\.)attn\.(bias|masked_bias)$"), "GPT-2's causal mask, a constant"),
)
"""Buffers that older versions of transformers saved; their numbers are not needed."""

HEAD = "lm_head.weight"
"""Extra, but tolerated, where the head is tied and this repeats the embedding."""

_MAX_LINES = 30
_MAX_SUGGESTED = 2_000


@dataclass(slots=True)
class Findings:
    """What is wrong; each list in the order of the model, then of the checkpoint."""

    missing: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.misshapen or self.unreadable or self.extra)


def stored_name(
    weight: Weight, stored: Collection[str], has_prefix: Mapping[str, bool]
) -> str | None:
    """The name under which a checkpoint has the weight's tensor, or None.

    ``has_prefix`` says of each of BARE_PREFIXES whether any stored name begins with it.
    """
    name = weight.tensor
    if name in stored:
        return name
    for prefix in BARE_PREFIXES:
        if name.startswith(prefix) and not has_prefix[prefix]:
            bare = name.removeprefix(prefix)
            if bare in stored:
                return bare
    return weight.also_named if weight.also_named in stored else None


def prefixes_in(stored: Iterable[str]) -> dict[str, bool]:
    """Which of BARE_PREFIXES occur."""
    names = list(stored)
    return {prefix: any(name.startswith(prefix) for name in names) for prefix in BARE_PREFIXES}


def compare(wanted: Iterable[Weight], stored: Mapping[str, TensorInfo]) -> Findings:
    """Everything that keeps ``stored`` from being what ``wanted`` asks for."""
    findings = Findings()
    has_prefix = prefixes_in(stored)
    used: set[str] = set()
    seen: set[tuple[str, tuple[int, ...]]] = set()
    for weight in wanted:
        if (weight.tensor, weight.tensor_shape) in seen:
            continue  # another slice of the same tensor
        seen.add((weight.tensor, weight.tensor_shape))
        name = stored_name(weight, stored, has_prefix)
        if name is None:
            findings.missing.append(weight.tensor)
            continue
        used.add(name)
        info = stored[name]
        if info.shape != weight.tensor_shape:
            findings.misshapen.append(
                f"{name} is {info.shape}, the model needs {weight.tensor_shape}"
            )
        if info.dtype not in READABLE:
            findings.unreadable.append(f"{name} has type {info.dtype[:50]}")
    findings.extra.extend(name for name in stored if name not in used and not _is_harmless(name))
    return findings


def report(folder: Path, findings: Findings, stored: Collection[str]) -> ModelError:
    """One error that holds all findings."""
    sections = [
        ("missing", findings.missing),
        ("of another shape", findings.misshapen),
        (f"of a type that is none of {', '.join(READABLE)}", findings.unreadable),
        ("that the model has no use for", findings.extra),
    ]
    lines = [f"{folder}: the checkpoint does not fit the model"]
    for title, items in sections:
        if not items:
            continue
        lines.append(f"  {len(items)} tensor{'s' if len(items) > 1 else ''} {title}:")
        grouped = group_by_layer(items)
        lines.extend(f"    {line}" for line in grouped[:_MAX_LINES])
        if len(grouped) > _MAX_LINES:
            lines.append(f"    and {len(grouped) - _MAX_LINES} more lines like these")
    return ModelError("\n".join(lines), hint=_hint(findings, stored))


def group_by_layer(items: Iterable[str]) -> list[str]:
    """Fold entries that differ in their first number only: ``layers.[0-3,5].mlp.up.weight``."""
    groups: dict[tuple[str, str], list[int]] = {}
    for item in items:
        match = re.search(r"(?<=\.)\d{1,9}(?=\.)|^\d{1,9}(?=\.)", item)
        key = (item[: match.start()], item[match.end() :]) if match else (item, "")
        numbers = groups.setdefault(key, [])
        if match:
            numbers.append(int(match.group()))
    return [f"{before}{_ranges(numbers)}{after}" for (before, after), numbers in groups.items()]


def _ranges(numbers: list[int]) -> str:
    if len(numbers) < 2:
        return "".join(map(str, numbers))
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return "[" + ",".join(f"{a}-{b}" if a != b else f"{a}" for a, b in parts) + "]"


def _is_harmless(name: str) -> bool:
    return any(pattern.search(name) for pattern, _ in HARMLESS_EXTRAS)


def _hint(findings: Findings, stored: Collection[str]) -> str:
    if findings.missing:
        prefix = _prefix_hint(findings.missing, stored)
        if prefix is not None:
            return prefix
        close = did_you_mean(findings.missing[0], findings.extra[:_MAX_SUGGESTED])
        if close is not None:
            return f"for {findings.missing[0]}: {close}"
    if findings.unreadable:
        return "use a checkpoint in bf16, f16 or f32; quantised ones cannot be read yet"
    return "config.json and the weights do not seem to be of the same model: fetch both again"


def _prefix_hint(missing: list[str], stored: Collection[str]) -> str | None:
    """Names that agree but for a prefix, if that explains at least half of what is missing."""
    full_of_suffix = {suffix: name for name in stored for suffix in _suffixes(name)}
    votes: Counter[tuple[str, str]] = Counter()
    for name in missing:
        if name in full_of_suffix:
            votes[full_of_suffix[name].removesuffix(name), ""] += 1
            continue
        for suffix in _suffixes(name):
            if suffix in stored:
                votes["", name.removesuffix(suffix)] += 1
                break
    if not votes:
        return None
    (theirs, ours), count = votes.most_common(1)[0]
    if 2 * count < len(missing):
        return None
    if theirs:
        return f"the checkpoint's names begin with {theirs!r}: it belongs to another architecture"
    return f"the checkpoint's names lack the prefix {ours!r}: it belongs to another architecture"


def _suffixes(name: str) -> Iterable[str]:
    """What follows each dot, longest first."""
    position = name.find(".")
    while position >= 0:
        yield name[position + 1 :]
        position = name.find(".", position + 1)
