"""Formats and activations have the same names in settings, in Python's tables and in C++'s."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from octavo._native import Forward, Products, ThreadPool
from octavo.backends.products import prepare
from octavo.bench.kernels import Roofs
from octavo.core.config import KvName, WeightsName
from octavo.core.kv_layout import KVGroup, page_bytes
from octavo.program.ir import Activation
from octavo.weights.formats import FORMATS

GROUP = KVGroup(None, (0,), 1, 4)


@pytest.fixture
def forward() -> Forward:
    limits = {"max_tokens": 1, "max_heads": 1, "max_model_len": 1}
    return Forward(ThreadPool(1), "", joins_rows=True, finds_peaks=True, **limits)


def known_names(call: Callable[..., Any], *arguments: Any, **options: Any) -> list[str]:
    """Those that the error about a name lists which is none."""
    with pytest.raises(ValueError, match=r"^unknown ") as caught:
        call(*arguments, **options)
    found = re.fullmatch(r"unknown .* 'none': it is one of (.*)", str(caught.value))
    assert found is not None
    return found[1].split(", ")


def test_formats_of_weights(forward: Forward) -> None:
    assert known_names(forward.operand, "none", 32) == list(FORMATS)
    assert known_names(Products(ThreadPool(1)).embed, "none", None, 0, None) == list(FORMATS)
    assert get_args(WeightsName) == tuple(FORMATS)


def test_formats_of_operands() -> None:
    """What Python calls the operand of a format is what the native packer of operands takes."""
    products = Products(ThreadPool(1))
    for name, form in FORMATS.items():
        operand = prepare(products, name, np.ones((1, 128), np.float32))
        assert form.operand in ("f32", "bf16", "int8")
        assert (operand.scales is not None) == (form.operand == "int8") == (form.group is not None)


def test_formats_of_keys_and_values(forward: Forward) -> None:
    pages = np.zeros(0, np.uint8)
    names = known_names(forward.pool, pages, 1, 1, GROUP.head_dim, "none")
    assert tuple(names) == get_args(KvName)
    assert all(page_bytes(GROUP, name) > 0 for name in names)


def test_roofs() -> None:
    names = known_names(Products(ThreadPool(1)).spin, "none", 1)
    assert ["read", *names] == list(get_type_hints(Roofs))


def test_activations(forward: Forward) -> None:
    view = forward.buffer(32)
    names = known_names(forward.activate, "none", view, None, view, 32)
    assert sorted(names) == sorted(one.value for one in Activation)
