"""Names: what is part of them, and that they never change by accident."""

from __future__ import annotations

import subprocess
import sys

import pytest

from octavo.core.hashing import DIGEST_SIZE, chain_root, numerics_id, page_name

FACTS = {"weights": "abc", "weight_format": "f32", "rope": "default"}
ROOT = chain_root(b"n" * 16, tenant="t", adapter="none")
PAGE = bytes(range(64))


def test_the_order_of_facts_is_free() -> None:
    assert numerics_id(FACTS) == numerics_id(dict(reversed(FACTS.items())))


@pytest.mark.parametrize("fact", FACTS)
def test_every_fact_counts(fact: str) -> None:
    assert numerics_id({**FACTS, fact: "other"}) != numerics_id(FACTS)
    assert numerics_id({k: v for k, v in FACTS.items() if k != fact}) != numerics_id(FACTS)


def test_names_and_values_do_not_run_together() -> None:
    assert numerics_id({"a": "b", "c": ""}) != numerics_id({"a": "bc="})
    first = chain_root(b"x", tenant="ab", adapter="c")
    assert first != chain_root(b"x", tenant="a", adapter="bc")


def test_numerics_tenant_and_adapter_count() -> None:
    names = {
        chain_root(numerics, tenant=tenant, adapter=adapter)
        for numerics in (b"1", b"2")
        for tenant in ("", "t")
        for adapter in ("none", "a")
    }
    assert len(names) == 8


def test_a_page_depends_on_its_parent_and_its_tokens() -> None:
    first = page_name(ROOT, PAGE)
    assert len(first) == DIGEST_SIZE
    assert page_name(ROOT, PAGE) == first
    assert page_name(first, PAGE) != first
    assert page_name(ROOT, PAGE[:-1] + b"\0") != first


def test_kinds_of_names_are_kept_apart() -> None:
    """The same parts never give the name of two different things."""
    assert page_name(b"", b"") != chain_root(b"", tenant="", adapter="")
    assert numerics_id({}) != page_name(b"", b"")


def test_names_are_the_same_in_every_process() -> None:
    """Names on disk outlive the process, whatever Python's own hash does."""
    code = (
        "from octavo.core.hashing import *;"
        "root = chain_root(numerics_id({'a': 'b'}), tenant='t', adapter='none');"
        "print(page_name(root, bytes(64)).hex())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    root = chain_root(numerics_id({"a": "b"}), tenant="t", adapter="none")
    assert seen == {page_name(root, bytes(64)).hex()}


def test_golden_name() -> None:
    """Changing what a name is made of makes every page on disk unfindable: do it knowingly."""
    assert page_name(ROOT, PAGE).hex() == "6002ce06ef612841405d2001c0ae5593"
