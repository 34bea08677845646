"""``octavo plan``: what a model needs for so many users, before anything is loaded."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Annotated

from cyclopts import Parameter

from octavo.cli.exit_codes import ExitCode
from octavo.cli.model_facts import ModelFacts
from octavo.cli.output import bytes_text, print_json, print_table
from octavo.cli.settings import EngineFlags, given
from octavo.core.config import EngineConfig, KvName, WeightsName
from octavo.core.errors import ConfigError
from octavo.core.kv_layout import PAGE_SIZE, pages_for
from octavo.execution.memory import KV_SHARE, USABLE, available_bytes
from octavo.models.builtin import BUILTIN
from octavo.models.folder import resolve

LOGITS_COPIES = 3
"""Rows of logits that exist at once: raw, changed, and sorted."""
FLOAT_BYTES = 4
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def plan(
    model: str = BUILTIN,
    /,
    *,
    context: int | None = None,
    users: int = 1,
    memory: str | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
    engine: EngineFlags | None = None,
) -> int:
    """What fits into memory: context, users, weights.

    Nothing is loaded; a config.json is enough, and of a model on the hub only the small files are
    fetched. The exit status is 0 if it fits and 1 if it does not.

    Args:
        model: a model folder, a model on the hub as owner/name or owner/name@revision, or
            builtin.
        context: tokens of each user's prompt and answer together; by default the model's own.
        users: sequences that are computed together, each of full length.
        memory: plan for a machine with so much free memory, such as 16GiB, instead of this one.
        json: machine-readable output.
    """
    if users < 1:
        raise ConfigError(f"--users must be >= 1, got {users}", hint="left out, it is one")
    if context is not None and context < 1:
        hint = "left out, it is the model's own"
        raise ConfigError(f"--context must be >= 1, got {context}", hint=hint)
    room = available_bytes() if memory is None else parse_bytes(memory)
    config = EngineConfig.from_options(given(engine))
    if context is not None:
        config = replace(config, max_model_len=context)
    folder = resolve(model, weights=False)
    facts = ModelFacts.read(folder, config)
    result = make_plan(facts, config, users=users, memory_bytes=room)
    if not result.fits:
        fitting = (
            other
            for other in compact_formats(config)
            if make_plan(ModelFacts.read(folder, other), other, users=users, memory_bytes=room).fits
        )
        if (other := next(fitting, None)) is not None:
            flags = f"--weights {other.weight_format} --kv {other.kv_format}"
            if config.backend != other.backend:
                flags = f"--backend {other.backend} {flags}"
            result = replace(result, advice=(f"with {flags} it fits", *result.advice))
    if json:
        print_json(asdict(result))
    else:
        _print(result, facts.weights_text)
    return ExitCode.OK if result.fits else ExitCode.FAILURE


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Bytes that are needed and bytes that there are."""

    context: int
    users: int
    memory_bytes: int
    usable_bytes: int
    weight_format: str
    weight_bytes: int
    repeated_bytes: int
    """Of these: what a tied table takes a second time."""
    workspace_bytes: int
    """An estimate."""
    kv_format: str
    kv_bytes_a_token: int
    kv_bytes: int
    """For all users at full length."""
    total_bytes: int
    fits: bool
    fits_by_default: bool
    """Whether the engine takes so many pages without being told to."""
    num_pages: int
    """To set, where it fits but not by default."""
    most_users: int
    """At this context."""
    longest_context: int
    """With so many users."""
    advice: tuple[str, ...]


def compact_formats(config: EngineConfig) -> list[EngineConfig]:
    """The same in formats of few bits, those that change answers least first."""
    formats: tuple[tuple[WeightsName, KvName], ...] = (
        *(("w8", "bf16"), ("w8", "int8")),
        *(("w4", "bf16"), ("w4", "int8")),
    )
    return [replace(config, backend="native", weights=weights, kv=kv) for weights, kv in formats]


def make_plan(facts: ModelFacts, config: EngineConfig, *, users: int, memory_bytes: int) -> Plan:
    """KV bytes = 2 x layers x kv heads x head dim x bytes x tokens, in whole pages."""
    usable = int(memory_bytes * USABLE)
    page = facts.kv_bytes_a_page
    pages_each = pages_for(facts.context)
    num_pages = users * pages_each + 1  # page 0 belongs to nobody
    default_pages = int(max(0, usable - facts.weight_bytes) * KV_SHARE) // page
    fixed = activation_bytes(facts, config)
    each = logits_bytes(facts)
    room = max(0, usable - facts.weight_bytes - fixed - page)
    pages_of_room = max(0, room - users * each) // page
    total = facts.weight_bytes + fixed + users * each + num_pages * page
    fits = total <= usable
    result = Plan(
        context=facts.context,
        users=users,
        memory_bytes=memory_bytes,
        usable_bytes=usable,
        weight_format=facts.weight_format,
        weight_bytes=facts.weight_bytes,
        repeated_bytes=facts.repeated_bytes,
        workspace_bytes=fixed + users * each,
        kv_format=facts.kv_format,
        kv_bytes_a_token=facts.kv_bytes_a_token,
        kv_bytes=num_pages * page,
        total_bytes=total,
        fits=fits,
        fits_by_default=fits and num_pages <= default_pages,
        num_pages=num_pages,
        most_users=room // (pages_each * page + each),
        longest_context=min(facts.context, pages_of_room // users * PAGE_SIZE),
        advice=(),
    )
    return _with_advice(result, config)


def activation_bytes(facts: ModelFacts, config: EngineConfig) -> int:
    """About what the tokens of a step need while they go through a layer."""
    spec = facts.spec
    heads = (spec.num_heads + 2 * spec.num_kv_heads) * spec.head_dim
    widths = 3 * spec.hidden_size + heads + 3 * spec.intermediate_size
    return config.max_num_batched_tokens * widths * FLOAT_BYTES


def logits_bytes(facts: ModelFacts) -> int:
    """About what a sequence needs while its next token is drawn."""
    return LOGITS_COPIES * facts.spec.vocab_size * FLOAT_BYTES


def _with_advice(plan: Plan, config: EngineConfig) -> Plan:
    flags = f"--max-model-len {plan.context} --max-num-seqs {plan.users}"
    for name, value in (("weights", config.weights), ("kv", config.kv)):
        flags += "" if value is None else f" --{name} {value}"
    if plan.users > config.max_num_batched_tokens:
        flags += f" --max-num-batched-tokens {plan.users}"
    advice = []
    if plan.fits_by_default:
        advice.append(f"start with {flags}")
    elif plan.fits:
        advice.append(
            f"start with {flags} --num-pages {plan.num_pages}: by default, pages take"
            f" at most {KV_SHARE:.0%} of what the weights leave"
        )
    else:
        if plan.weight_bytes + plan.workspace_bytes > plan.usable_bytes:
            advice.append("weights and workspace alone do not fit")
        if plan.most_users >= 1:
            advice.append(f"with this context, {plan.most_users} users fit (--users)")
        if plan.longest_context >= PAGE_SIZE:
            advice.append(f"with so many users, {plan.longest_context} tokens fit (--context)")
        if plan.most_users < 1 and plan.users > 1:
            advice.append("ask for fewer users and a shorter context")
        needed = int(plan.total_bytes / USABLE)
        advice.append(f"{bytes_text(needed)} of free memory would do")
    return replace(plan, advice=tuple(advice))


def _print(plan: Plan, weights: str) -> None:
    rows = [
        (
            "memory",
            f"{bytes_text(plan.memory_bytes)} available, {USABLE:.0%} of it is used:"
            f" {bytes_text(plan.usable_bytes)}",
        ),
        ("weights", weights),
        (
            "KV",
            f"{bytes_text(plan.kv_bytes)} for {plan.users} x {plan.context} tokens"
            f" of {bytes_text(plan.kv_bytes_a_token)} ({plan.kv_format})",
        ),
        ("workspace", f"about {bytes_text(plan.workspace_bytes)}"),
        ("total", bytes_text(plan.total_bytes)),
        ("fits", "yes" if plan.fits else "NO"),
        ("users that fit", f"{plan.most_users} with {plan.context} tokens each"),
        *(("what to do", line) for line in plan.advice),
    ]
    print_table("plan", rows)


def parse_bytes(text: str) -> int:
    """``16GiB``, ``16 GB``, ``500MB`` or a plain number of bytes.

    Raises:
        ConfigError: none of these, or nothing.
    """
    match = re.fullmatch(r"\s*(\d{1,20}(?:\.\d+)?)\s*([kmg]?i?)b?\s*", text.lower())
    if match is None or match[2] not in _UNITS:
        hint = "as in 16GiB or 500MB; left out, it is what this machine has free"
        raise ConfigError(f"not an amount of memory: {text!r}", hint=hint)
    count = int(float(match[1]) * _UNITS[match[2]])
    if count == 0:
        hint = "as in 16GiB; left out, it is what this machine has free"
        raise ConfigError(f"--memory must be above 0, got {text!r}", hint=hint)
    return count
