"""The figures of attention say what was measured."""

from __future__ import annotations

import pytest

from octavo.bench import attention
from octavo.bench.attention import AttentionCase, measure_attention


@pytest.mark.parametrize(("kv_format", "page_bytes"), [("bf16", 2 * 16 * 20), ("int8", 16 * 24)])
@pytest.mark.parametrize("in_memory", [False, True])
def test_figures(
    monkeypatch: pytest.MonkeyPatch, kv_format: str, page_bytes: int, in_memory: bool
) -> None:
    monkeypatch.setattr(attention, "_MEMORY_UNITS", 64)
    probes = []
    case = AttentionCase(kv_format, 3, 20, in_memory)
    figure = measure_attention("scalar", case, between=lambda: probes.append(1))
    assert figure.name == f"{'decode' if in_memory else 'prefill'} 3 x 20"
    assert figure.bytes == 2 * 16 * page_bytes
    assert figure.multiply_adds == 2 * 3 * 256 * 20
    assert figure.reads_memory == in_memory
    # Faster than a multiply-add each cycle of one scalar lane would be a wrong unit.
    assert figure.multiply_adds / 2e10 < figure.seconds < 0.1
    assert len(probes) == 64
