"""What fits: cgroup files as the kernel writes them, and the number of pages."""

from pathlib import Path

import pytest

from octavo.core.errors import ConfigError
from octavo.core.kv_layout import KVGroup
from octavo.execution.memory import available_bytes, num_pages_that_fit, page_bytes

GROUP = KVGroup(window=None, layers=(0, 1), num_kv_heads=2, head_dim=8)
MIB = 2**20


def write_files(folder: Path, **cgroup: str) -> tuple[Path, Path]:
    meminfo = folder / "meminfo"
    meminfo.write_text("MemTotal:       2048 kB\nMemAvailable:    1024 kB\n")
    limits = folder / "cgroup"
    limits.mkdir()
    for name, text in cgroup.items():
        (limits / name.replace("_", ".")).write_text(text + "\n")
    return meminfo, limits


@pytest.mark.parametrize(
    ("cgroup", "expected"),
    [
        ({}, MIB),
        ({"memory_max": "max", "memory_high": "max", "memory_current": "5"}, MIB),
        ({"memory_max": "1000", "memory_current": "400"}, 600),
        ({"memory_max": "1000", "memory_high": "500", "memory_current": "400"}, 100),
        ({"memory_max": "1000", "memory_current": "4000"}, 0),
    ],
)
def test_available_is_the_least_of_all_limits(
    tmp_path: Path, cgroup: dict[str, str], expected: int
) -> None:
    assert available_bytes(*write_files(tmp_path, **cgroup)) == expected


def test_available_on_this_machine_is_positive() -> None:
    assert available_bytes() > MIB


def test_a_page_holds_keys_and_values_of_all_layers_and_heads() -> None:
    assert page_bytes(GROUP, 4) == 2 * 2 * 2 * 16 * 8 * 4


def fit(memory_bytes: int, *, max_num_seqs: int = 4, max_model_len: int = 160) -> int:
    return num_pages_that_fit(
        [GROUP],
        bytes_per_value=4,
        weight_bytes=1000,
        max_num_seqs=max_num_seqs,
        max_model_len=max_model_len,
        memory_bytes=memory_bytes,
    )


def test_no_more_pages_than_all_sequences_could_use() -> None:
    assert fit(2**30) == 4 * 10 + 1


def test_pages_shrink_with_memory() -> None:
    a_page = page_bytes(GROUP, 4)
    assert fit(int((20.5 * a_page / 0.4 + 1000) / 0.8)) == 20


def test_one_sequence_must_fit() -> None:
    with pytest.raises(ConfigError, match="one sequence of 160 tokens needs") as caught:
        fit(20_000)
    assert "max_model_len" in str(caught.value.hint)
