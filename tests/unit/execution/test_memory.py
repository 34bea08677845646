"""What fits: cgroup files as the kernel writes them, and the number of pages."""

from pathlib import Path

import pytest

from octavo.core.errors import ConfigError
from octavo.core.kv_layout import KVGroup, page_bytes
from octavo.execution.memory import (
    available_bytes,
    check_pages,
    num_pages_that_fit,
)

GROUP = KVGroup(window=None, layers=(0, 1), num_kv_heads=2, head_dim=8)
MIB = 2**20


def write_machine(root: Path, groups: dict[str, dict[str, str]]) -> Path:
    """A made-up tree of proc and sys: a process in the cgroup ``pod/box``, and 1 MiB available."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal:       2048 kB\nMemAvailable:    1024 kB\n")
    (root / "proc/self/cgroup").write_text("0::/pod/box\n")
    for path, files in groups.items():
        folder = root / "sys/fs/cgroup" / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / f"memory.{name}").write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({}, MIB),
        ({"": {"max": "max", "high": "max", "current": "5"}}, MIB),
        ({"": {"max": "1000", "current": "400"}}, 600),
        ({"": {"max": "1000", "high": "500", "current": "400"}}, 100),
        ({"": {"max": "1000", "current": "4000"}}, 0),
        ({"pod/box": {"max": "900", "current": "400"}, "pod": {"max": "max"}}, 500),
        (
            {"pod/box": {"max": "900", "current": "400"}, "pod": {"max": "800", "current": "700"}},
            100,
        ),
        ({"pod/other": {"max": "1", "current": "0"}}, MIB),
        ({"": {"max": "1000", "current": "900", "stat": "anon 5\ninactive_file 300"}}, 400),
    ],
)
def test_available_is_the_least_of_all_limits(
    tmp_path: Path, groups: dict[str, dict[str, str]], expected: int
) -> None:
    assert available_bytes(write_machine(tmp_path, groups)) == expected


def test_a_machine_that_does_not_tell(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        available_bytes(tmp_path)
    assert caught.value.hint == "set num_pages"
    write_machine(tmp_path, {})
    (tmp_path / "proc/meminfo").write_text("MemTotal: 5 kB\n")
    with pytest.raises(ConfigError, match="does not tell MemAvailable"):
        available_bytes(tmp_path)


def test_available_on_this_machine_is_positive() -> None:
    assert available_bytes() > MIB


def test_a_page_holds_keys_and_values_of_all_layers_and_heads() -> None:
    assert page_bytes(GROUP, "f32") == 2 * 2 * 2 * 16 * 8 * 4


def fit(memory_bytes: int, *, max_num_seqs: int = 4, max_model_len: int = 160) -> int:
    return num_pages_that_fit(
        [GROUP],
        kv_format="f32",
        weight_bytes=1000,
        max_num_seqs=max_num_seqs,
        max_model_len=max_model_len,
        memory_bytes=memory_bytes,
    )


def test_no_more_pages_than_all_sequences_could_use() -> None:
    assert fit(2**30) == 4 * 10 + 1


def test_pages_shrink_with_memory() -> None:
    a_page = page_bytes(GROUP, "f32")
    assert fit(int((20.5 * a_page / 0.4 + 1000) / 0.8)) == 20


def test_one_sequence_must_fit() -> None:
    with pytest.raises(ConfigError, match="one sequence of 160 tokens needs") as caught:
        fit(20_000)
    assert "max_model_len" in str(caught.value.hint)


def test_wanted_pages_must_fit() -> None:
    check_pages([GROUP], kv_format="f32", num_pages=10, memory_bytes=10 * page_bytes(GROUP, "f32"))
    with pytest.raises(ConfigError, match="num_pages=11 takes"):
        check_pages(
            [GROUP], kv_format="f32", num_pages=11, memory_bytes=10 * page_bytes(GROUP, "f32")
        )
