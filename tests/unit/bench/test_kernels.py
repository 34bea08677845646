"""What `octavo bench kernels` measures: the matrices of a shape, and figures that fit together."""

from __future__ import annotations

import numpy as np
import pytest

from octavo.bench import attention, kernels
from octavo.bench.kernels import KernelsJob, matrices_of, measure_kernels
from octavo.core.errors import ConfigError


def test_the_matrices_of_a_shape() -> None:
    sizes = {one.name: (one.columns, one.depth) for one in matrices_of("qwen2.5-0.5b")}
    assert sizes == {
        "qkv": (1152, 896),
        "output": (896, 896),
        "gate_up": (9728, 896),
        "down": (896, 4864),
        "head": (151936, 896),
    }


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little memory and few products: the figures mean nothing."""
    monkeypatch.setattr(kernels, "_READ_BYTES", 1 << 16)
    monkeypatch.setattr(kernels, "_PROBE_BYTES", 1 << 14)
    monkeypatch.setattr(kernels, "_UNCACHED_BYTES", 1 << 16)
    monkeypatch.setattr(kernels, "_SPINS", 10)
    monkeypatch.setattr(attention, "_MEMORY_UNITS", 64)


@pytest.mark.usefixtures("small")
def test_figures_fit_together() -> None:
    job = KernelsJob(
        shape="nothing",
        parts=("products",),
        formats=("bf16", "w8", "w4"),
        rows=(1, 17),
        repeat=2,
        num_threads=2,
        instruction_set="scalar",
    )
    roofs, alone, *rows = [*measure_kernels(job)]
    assert (roofs.num_threads, alone.num_threads) == (1, 2)
    assert roofs.roofs is not None
    assert min(roofs.roofs.read, roofs.roofs.int8, roofs.roofs.bf16, roofs.roofs.f32) > 0
    assert len(rows) == 3 * 5 * 2
    for row in rows:
        macs = row.columns * row.depth * row.rows
        np.testing.assert_allclose(row.gmac_per_s, macs / (row.ms * 1e6), rtol=1e-9)
        assert row.share > 0
        assert row.roof in ("read", "compute")
        assert row.instruction_set == "scalar"


@pytest.mark.usefixtures("small")
@pytest.mark.slow  # ten units of attention, and a tenth of a second for each way of sampling
def test_attention_and_the_sampler_have_rows_of_their_own() -> None:
    job = KernelsJob(
        shape="nothing",
        parts=("attention", "sampler"),
        formats=("w8",),
        rows=(1,),
        repeat=1,
        num_threads=1,
        instruction_set="",
    )
    _, *rows = measure_kernels(job)
    attending = [row for row in rows if row.part == "attention"]
    assert {row.format for row in attending} == {"bf16", "int8"}
    assert {row.roof for row in attending} == {"read", "compute"}
    assert all(row.share > 0 and row.gmac_per_s > 0 for row in attending)
    sampling = [row for row in rows if row.part == "sampler"]
    assert len(sampling) >= 8
    assert all(row.columns == 256 and row.ms > 0 and not row.share for row in sampling)


@pytest.mark.usefixtures("small")
def test_an_unknown_instruction_set_is_told() -> None:
    job = KernelsJob(
        shape="nothing", formats=("w8",), rows=(1,), repeat=1, num_threads=1, instruction_set="mmx"
    )
    with pytest.raises(ConfigError, match="instruction set 'mmx'") as told:
        next(iter(measure_kernels(job)))
    assert told.value.hint is not None
    assert told.value.hint.endswith("leave it out for the best of this machine")
