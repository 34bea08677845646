"""``octavo info``: this machine, a model, and the settings with where each came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from octavo.cli.layers import Layers
from octavo.cli.machine import Machine
from octavo.cli.model_facts import ModelFacts
from octavo.cli.output import bytes_text, count_text, print_json, print_table
from octavo.cli.settings import (
    ENGINE,
    SAMPLING,
    CompletionFlags,
    EngineFlags,
    given,
    show_value,
)
from octavo.core.config import EngineConfig
from octavo.core.kv_layout import KVGroup
from octavo.core.request import SamplingParams
from octavo.models.builtin import BUILTIN, builtin_folder
from octavo.models.folder import resolve

Rows = list[tuple[str, str]]


def info(
    model: str | None = None,
    /,
    *,
    settings: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
    sampling: CompletionFlags | None = None,
    engine: EngineFlags | None = None,
    layers: Annotated[Layers | None, Parameter(parse=False)] = None,
) -> None:
    """What this machine, a model, and the settings are.

    Nothing is loaded: of a model on the hub, only the small files are fetched.

    Args:
        model: a model folder, or a model on the hub as owner/name or owner/name@revision; by
            default the built-in one.
        settings: show every setting, its value, and where that came from.
        json: machine-readable output.
    """
    config = EngineConfig.from_options(given(engine))
    params = SamplingParams(**given(sampling))
    parts: dict[str, Any] = {}
    tables: list[tuple[str, Rows]] = []
    if settings:
        origins = {} if layers is None else layers.origins
        parts["settings"] = _settings(config, params, origins)
        tables.append(("settings", _settings_rows(parts["settings"])))
    else:
        machine = Machine.look()
        parts["machine"] = dataclasses.asdict(machine)
        tables.append(("machine", _machine_rows(machine, config.num_threads)))
    if model is not None or not settings:
        facts = ModelFacts.read(resolve(BUILTIN if model is None else model, weights=False), config)
        parts["model"] = _model_json(facts)
        tables.append(("model", _model_rows(facts)))
    if json:
        print_json(parts)
        return
    for title, rows in tables:
        print_table(title, rows)


def _settings(
    config: EngineConfig, params: SamplingParams, origins: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Every setting: its value, and the flag, variable or file that set it."""
    values = {setting.name: getattr(config, setting.name) for setting in ENGINE}
    values |= {setting.name: getattr(params, setting.name) for setting in SAMPLING}
    return {
        name: {"value": value, "origin": origins.get(name, "default")}
        for name, value in values.items()
    }


def _settings_rows(settings: Mapping[str, Mapping[str, Any]]) -> Rows:
    return [
        (name, f"{show_value(one['value']):12} {one['origin']}") for name, one in settings.items()
    ]


def _instruction_sets_text(machine: Machine) -> str:
    others = [
        f"{name} (only by name: never tried on a real processor)"
        if name in machine.only_by_name
        else name
        for name in machine.instruction_sets
        if name != machine.instruction_set
    ]
    return f"{machine.instruction_set}; others: {', '.join(others) or 'none'}"


def _machine_rows(machine: Machine, num_threads: int | None) -> Rows:
    limit = machine.cgroup_limit_bytes
    return [
        ("octavo", machine.version),
        ("python", machine.python),
        ("system", machine.system),
        ("processor", machine.cpu),
        ("features", " ".join(machine.features)),
        ("instruction set", _instruction_sets_text(machine)),
        (
            "threads",
            f"{num_threads or machine.usable_cores} of {machine.logical_cpus} logical processors;"
            f" {machine.usable_cores} cores are ours to use",
        ),
        (
            "memory",
            f"{bytes_text(machine.available_bytes)} available of {bytes_text(machine.total_bytes)}",
        ),
        ("memory limit", "none" if limit is None else f"{bytes_text(limit)} (cgroup)"),
        ("huge pages", machine.huge_pages or "unknown"),
        ("libraries", ", ".join(f"{name} {is_}" for name, is_ in machine.libraries.items())),
    ]


def _model_rows(facts: ModelFacts) -> Rows:
    spec = facts.spec
    stored = ", ".join(f"{name} {bytes_text(size)}" for name, size in facts.stored_bytes.items())
    ends = ", ".join(map(str, facts.generation.end_token_ids))
    suggested = ", ".join(f"{name} {value}" for name, value in facts.generation.sampling.items())
    is_builtin = facts.folder == builtin_folder()
    name = [("model", f"{BUILTIN} (its card: README.md in the folder)")] if is_builtin else []
    return [
        *name,
        ("folder", str(facts.folder)),
        ("architecture", spec.architecture),
        ("layers", f"{spec.num_layers} of width {spec.hidden_size}"),
        ("heads", f"{spec.num_heads} of {spec.head_dim}; {spec.num_kv_heads} for keys and values"),
        ("context", f"{facts.context} tokens"),
        ("vocabulary", f"{spec.vocab_size} tokens"),
        ("parameters", count_text(facts.parameters)),
        ("stored", stored or "no weights here"),
        ("in memory", facts.weights_text),
        ("KV", f"{bytes_text(facts.kv_bytes_a_token)} a token ({facts.kv_format})"),
        ("KV groups", "; ".join(_group_text(group) for group in facts.kv_groups)),
        ("end tokens", ends or "none"),
        ("tokeniser", "yes" if facts.has_tokenizer else "no"),
        ("chat template", "yes" if facts.has_chat_template else "no"),
        ("suggested", suggested or "nothing"),
    ]


def _group_text(group: KVGroup) -> str:
    reach = "all tokens" if group.window is None else f"a window of {group.window} tokens"
    return f"{len(group.layers)} layers with {reach}"


def _model_json(facts: ModelFacts) -> dict[str, Any]:
    spec = facts.spec
    return {
        "folder": str(facts.folder),
        "architecture": spec.architecture,
        "num_layers": spec.num_layers,
        "hidden_size": spec.hidden_size,
        "num_heads": spec.num_heads,
        "num_kv_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "context": facts.context,
        "vocab_size": spec.vocab_size,
        "parameters": facts.parameters,
        "stored_bytes": facts.stored_bytes,
        "weight_format": facts.weight_format,
        "weight_bytes": facts.weight_bytes,
        "repeated_bytes": facts.repeated_bytes,
        "kv_format": facts.kv_format,
        "kv_bytes_a_token": facts.kv_bytes_a_token,
        "kv_groups": [
            {"window": group.window, "layers": list(group.layers)} for group in facts.kv_groups
        ],
        "end_token_ids": list(facts.generation.end_token_ids),
        "has_tokenizer": facts.has_tokenizer,
        "has_chat_template": facts.has_chat_template,
        "suggested_sampling": dict(facts.generation.sampling),
    }
