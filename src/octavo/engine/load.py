"""From a model folder and settings to an engine that is ready to step."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from octavo.backends.base import Backend, Executable, Limits, WeightSource
from octavo.backends.native import NativeBackend
from octavo.backends.reference import ReferenceBackend
from octavo.core.clock import Clock, monotonic
from octavo.core.config import EngineConfig
from octavo.core.hashing import numerics_id
from octavo.engine.engine import Engine
from octavo.execution.memory import available_bytes, check_pages, num_pages_that_fit
from octavo.execution.runner import Runner
from octavo.models.generation import GenerationConfig
from octavo.models.registry import build
from octavo.models.spec import ModelSpec
from octavo.program.ir import Program
from octavo.scheduling.admission import Admission
from octavo.scheduling.batching import Batching, Continuous, Dynamic, Static
from octavo.scheduling.kv import KVManager
from octavo.scheduling.policy import make_policy
from octavo.scheduling.scheduler import Scheduler
from octavo.weights.checkpoint import Checkpoint
from octavo.weights.dummy import DummyWeights
from octavo.weights.pack_cache import PackCache

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An engine, and what its clients want to know of the model."""

    engine: Engine
    executable: Executable
    kv: KVManager
    spec: ModelSpec
    generation: GenerationConfig
    max_model_len: int
    num_pages: int


def load_engine(folder: Path, config: EngineConfig, *, clock: Clock = monotonic) -> LoadedEngine:
    """Read a model, compile it, and put a scheduler and a runner around it.

    Raises:
        ModelError: the folder cannot be used.
        ConfigError: the settings do not fit the model or the memory.
    """
    spec = ModelSpec.read(folder)
    generation = GenerationConfig.read(folder)
    end_token_ids = _end_token_ids(generation, spec)
    max_model_len = spec.resolve_max_model_len(config.max_model_len)
    if max_model_len > spec.default_len:
        logger.warning(
            "max_model_len=%d stretches the model's rotary angles: its own length is %d",
            max_model_len,
            spec.default_len,
        )
    program = build(spec, max_model_len)
    weights = _weights(folder, program, config)
    backend = make_backend(config)
    num_pages = _num_pages(program, config, backend.weight_bytes(program), max_model_len)
    executable = backend.compile(
        program,
        weights,
        Limits(config.max_num_seqs, _max_step_tokens(config), max_model_len, num_pages),
    )
    try:
        # Only the prefix cache names pages, and only names need the weights' fingerprint.
        numerics = numerics_id(executable.numerics()) if config.prefix_cache else b""
        kv = KVManager(
            executable.kv_groups,
            num_pages=num_pages,
            numerics=numerics,
            prefix_cache=config.prefix_cache,
        )
        scheduler = Scheduler(
            policy=make_policy(config.policy, max_model_len=max_model_len),
            batching=_batching(config, clock),
            kv=kv,
            admission=Admission(
                spec.vocab_size, config.max_waiting_requests, config.max_waiting_tokens
            ),
            clock=clock,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            max_model_len=max_model_len,
            end_token_ids=end_token_ids,
            chunked_prefill=config.chunked_prefill,
            kv_cache=config.kv_cache,
        )
        runner = Runner(
            executable,
            max_num_seqs=config.max_num_seqs,
            max_model_len=max_model_len,
            vocab_size=spec.vocab_size,
            end_token_ids=end_token_ids,
            overlap=config.steps_in_flight > 1,
            clock=clock,
        )
        engine = Engine(scheduler, runner, steps_in_flight=config.steps_in_flight, clock=clock)
        return LoadedEngine(engine, executable, kv, spec, generation, max_model_len, num_pages)
    except BaseException:  # nobody else has it
        executable.close()
        raise


def _max_step_tokens(config: EngineConfig) -> int:
    """Padding comes on top of the budget: every sequence may become as long as the longest."""
    return config.max_num_batched_tokens * (config.max_batch_size if config.pad else 1)


def make_backend(config: EngineConfig) -> Backend:
    """What computes with these settings.

    Raises:
        ConfigError: this machine lacks what they ask for.
    """
    if config.backend == "native":
        return NativeBackend(
            config.num_threads,
            weights=config.weight_format,
            kv=config.kv_format,
            profile=config.profile,
            pack_cache=PackCache.of_user(os.environ) if config.pack_cache else None,
        )
    return ReferenceBackend(config.num_threads)


def _weights(folder: Path, program: Program, config: EngineConfig) -> WeightSource:
    if config.load_format == "dummy":
        return DummyWeights()
    checkpoint = Checkpoint(folder, num_threads=config.num_threads)
    checkpoint.check(program.weights())
    return checkpoint


def _num_pages(
    program: Program, config: EngineConfig, weight_bytes: int, max_model_len: int
) -> int:
    groups, memory_bytes = program.kv_groups(), available_bytes()
    if config.num_pages is not None:
        check_pages(
            groups,
            kv_format=config.kv_format,
            num_pages=config.num_pages,
            memory_bytes=memory_bytes,
        )
        return config.num_pages
    return num_pages_that_fit(
        groups,
        kv_format=config.kv_format,
        weight_bytes=weight_bytes,
        max_num_seqs=config.max_num_seqs,
        max_model_len=max_model_len,
        memory_bytes=memory_bytes,
    )


def _end_token_ids(generation: GenerationConfig, spec: ModelSpec) -> tuple[int, ...]:
    """Those that the model can draw; some models name others, of a vocabulary that was padded."""
    for token in generation.end_token_ids:
        if token >= spec.vocab_size:
            logger.warning(
                "end token %d is outside of the vocabulary of %d tokens: it is left out",
                token,
                spec.vocab_size,
            )
    return tuple(token for token in generation.end_token_ids if token < spec.vocab_size)


def _batching(config: EngineConfig, clock: Clock) -> Batching:
    if config.continuous_batching:
        return Continuous()
    if config.batching == "static":
        return Static(
            max_batch_size=config.max_batch_size,
            max_batch_tokens=config.max_batch_tokens,
            pad=config.pad,
        )
    return Dynamic(
        max_batch_size=config.max_batch_size,
        max_wait_s=config.max_wait_ms / 1000,
        clock=clock,
        pad=config.pad,
    )
