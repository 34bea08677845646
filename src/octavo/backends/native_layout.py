"""A fused program to the calls of the native executor: where values lie, who computes what.

A value is rows of float32 in a buffer; what a product multiplies is its operand, prepared just
before. A buffer is used again once the last reader of its values has been laid out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octavo._native import Forward, Operand, View
from octavo.backends.base import F32, WeightSource
from octavo.backends.packed_weights import PackedWeights, Stack, embeds_panels
from octavo.backends.rotary import rotary_tables
from octavo.core.errors import UnsupportedModel
from octavo.core.kv_layout import KVGroup
from octavo.program.fuse import Fused, FusedOperation, Product
from octavo.program.ir import (
    Activate,
    Add,
    Attend,
    Embed,
    EmbedBy,
    Glu,
    HeadNorm,
    Logits,
    Norm,
    NormKind,
    Rotary,
    RotaryTable,
    RowKind,
    Scale,
    Take,
    Value,
    Weight,
    inputs_of,
)
from octavo.weights.formats import FORMATS, PANEL_COLUMNS

MAX_HEAD_DIM = 256

_NO_BIAS = np.float32(-0.0)
"""Added to a number it changes nothing, not even the sign of a zero."""


@dataclass(slots=True)
class _Buffer:
    """Memory for rows, and how many values live in it."""

    view: View
    key: tuple[RowKind, int]
    num_values: int


class Layout:
    """Walks a fused program once, adding its calls to ``forward``."""

    def __init__(
        self,
        forward: Forward,
        weights: WeightSource,
        packed: PackedWeights,
        formats: dict[Weight, str],
        groups: tuple[KVGroup, ...],
        pages: list[NDArray[np.uint8]],
        kv_format: str,
    ) -> None:
        self.weight_bytes = packed.num_bytes
        self._forward = forward
        self._source = weights
        self._packed = packed
        self._formats = formats
        self._loaded: dict[Weight, F32] = {}
        self._rotary: dict[RotaryTable, tuple[F32, F32]] = {}
        self._views: dict[int, View] = {}
        self._buffers: dict[int, _Buffer] = {}  # of values
        self._free: dict[tuple[RowKind, int], list[_Buffer]] = {}
        self._operands: dict[tuple[RowKind, str, int, bool], Operand] = {}
        self._operand_of: dict[int, Operand] = {}  # values that are operands only
        self._last_reader: dict[int, int] = {}
        self._only_multiplied: dict[int, Product] = {}
        self._prepared: dict[tuple[RowKind, str, int], int] = {}  # what an operand holds
        self._place_of_layer: dict[int, tuple[int, int]] = {}
        self._windows: dict[int, int] = {}
        for group, memory in zip(groups, pages, strict=True):
            if group.head_dim > MAX_HEAD_DIM:
                raise UnsupportedModel(
                    f"the native backend has heads of at most {MAX_HEAD_DIM} numbers, this model"
                    f" has {group.head_dim}",
                    hint="use backend='reference'",
                )
            if kv_format == "bf16" and group.head_dim % 2:
                raise UnsupportedModel(
                    f"bf16 keys lie in pairs, and heads here have {group.head_dim} numbers",
                    hint="use kv='int8' or kv='f32'",
                )
            number = forward.pool(
                memory.reshape(-1), len(group.layers), group.num_kv_heads, group.head_dim, kv_format
            )
            self._windows[number] = group.window or 0
            for index, layer in enumerate(group.layers):
                self._place_of_layer[layer] = number, index

    def lay_out(self, fused: Fused) -> None:
        """Add every call."""
        for index, (_, operation) in enumerate(fused.operations):
            for value in _inputs(operation):
                self._last_reader[value.index] = index
        self._only_multiplied = _only_multiplied(fused)
        for index, (values, operation) in enumerate(fused.operations):
            if isinstance(operation, Product):
                self._product(index, values, operation)
            else:
                self._single(index, values[0], operation)
            for number in {value.index for value in _inputs(operation)}:
                if self._last_reader[number] == index:
                    self._release(number)

    def rope_digest(self) -> str:
        """Names the content of the rotary tables."""
        state = hashlib.blake2b(digest_size=16)
        for cosines, sines in self._rotary.values():
            state.update(cosines.data)
            state.update(sines.data)
        return state.hexdigest()

    def _single(self, index: int, value: int, operation: FusedOperation) -> None:
        """The call of an operation that is no product."""
        forward = self._forward
        match operation:
            case Embed():
                self._embed(operation, self._new(value, operation))
            case Norm():
                bias = None if operation.bias is None else self._load(operation.bias)
                forward.norm(
                    self._views[operation.x.index],
                    self._new(value, operation),
                    self._load(operation.weight),
                    bias,
                    operation.eps,
                    operation.kind is NormKind.LAYER,
                )
            case HeadNorm():
                view = self._in_place(index, value, operation.x)
                forward.head_norm(
                    view, operation.num_heads, self._load(operation.weight), operation.eps
                )
            case Rotary():
                view = self._in_place(index, value, operation.x)
                cosines, sines = self._rotary_tables(operation.table)
                forward.rotate(view, operation.num_heads, operation.head_dim, cosines, sines)
            case Attend():
                self._attend(value, operation)
            case Activate():
                x = self._views[operation.x.index]
                out = self._new(value, operation)
                forward.activate(operation.function.value, x, None, out, operation.x.features)
            case Glu():
                gate, up = self._views[operation.gate.index], self._views[operation.up.index]
                out = self._new(value, operation)
                forward.activate(operation.function.value, gate, up, out, operation.up.features)
            case Add():
                a, b = self._views[operation.a.index], self._views[operation.b.index]
                forward.add(a, b, self._new(value, operation), operation.a.features)
            case Scale():
                x = self._views[operation.x.index]
                forward.scale(
                    x, operation.factor, self._new(value, operation), operation.x.features
                )
            case Take():
                forward.begin_heads()
                x = self._views[operation.x.index]
                forward.take(x, operation.x.features, self._new(value, operation))
            case _:
                raise AssertionError(f"{operation} is no operation of the native backend")

    def _embed(self, operation: Embed, out: View) -> None:
        table = operation.table
        if not embeds_panels(operation, self._formats):
            by_position = operation.by is EmbedBy.POSITION
            self._forward.embed(self._load(table), by_position, out)
            return
        panels = self._packed.panels(Stack((table,))).reshape(-1)
        self._forward.embed_panels(self._formats[table], panels, table.shape[1], out)

    def _attend(self, value: int, operation: Attend) -> None:
        pool, layer = self._place_of_layer[operation.layer]
        keys, values = self._views[operation.k.index], self._views[operation.v.index]
        self._forward.write_kv(pool, layer, keys, values)
        self._forward.attend(
            pool,
            layer,
            operation.num_heads // operation.num_kv_heads,
            self._windows[pool],
            operation.scale,
            self._views[operation.q.index],
            self._new(value, operation),
        )

    def _product(self, index: int, values: tuple[int, ...], product: Product) -> None:
        rows, depth = product.x.rows, product.x.features
        form = self._formats[product.parts[0].weight]
        operand = self._operand(product.x, form)
        panels, bias = self._packed.panels(Stack.of(product)), self._bias(product)
        shared = (operand, form, panels.reshape(-1), len(panels), depth, bias)
        if product.gate is not None:
            features = product.gate.up.features
            function = product.gate.function.value
            following = self._only_multiplied.get(values[0])
            if following is not None:
                next_form = self._formats[following.parts[0].weight]
                memory = self._operand_memory(rows, features, next_form, gated=True)
                # Somebody may still read what was gated before.
                assert all(
                    self._last_reader[held] < index
                    for held, operand in self._operand_of.items()
                    if operand is memory
                ), "gated values of one width are read before the next is made"
                self._operand_of[values[0]] = memory
                self._forward.product_gated(*shared, function, None, memory, next_form, features)
            else:
                out = self._take(values, rows, features)
                self._forward.product_gated(*shared, function, out, None, form, features)
        elif product.addend is not None:
            addend = self._views[product.addend.index]
            if self._last_reader[product.addend.index] == index:
                out = self._hand_over(product.addend.index, values[0])
            else:
                out = self._take(values, rows, product.addend.features)
            self._forward.product_added(*shared, addend, out)
        else:
            out = self._take(values, rows, len(panels) * PANEL_COLUMNS)
            self._forward.product(*shared, out)
            column = 0
            for value, part in zip(values, product.parts, strict=True):
                self._views[value] = out.columns(column)
                column += -(-part.shape[1] // PANEL_COLUMNS) * PANEL_COLUMNS
            if isinstance(product.parts[0], Logits):
                self._forward.end_heads(out, product.parts[0].shape[1])

    def _operand(self, value: Value, form: str) -> Operand:
        """The value as the operand of a product; prepared now, unless it was made as one."""
        if value.index in self._operand_of:
            return self._operand_of[value.index]
        operand = self._operand_memory(value.rows, value.features, form, gated=False)
        key = value.rows, FORMATS[form].operand, value.features
        if self._prepared.get(key) != value.index:
            self._forward.prepare(self._views[value.index], value.features, operand, form)
            self._prepared[key] = value.index
        return operand

    def _operand_memory(self, rows: RowKind, features: int, form: str, *, gated: bool) -> Operand:
        # A gated product reads one operand while it writes another.
        key = rows, FORMATS[form].operand, features, gated
        if key not in self._operands:
            self._operands[key] = self._forward.operand(form, features)
        return self._operands[key]

    # Memory of values.

    def _new(self, value: int, operation: FusedOperation) -> View:
        """A place for the value that an operation gives."""
        rows, features = operation.shape  # type: ignore[union-attr]
        return self._take((value,), rows, features)

    def _take(self, values: tuple[int, ...], rows: RowKind, features: int) -> View:
        """A buffer in which these values are going to live."""
        key = rows, -(-features // PANEL_COLUMNS) * PANEL_COLUMNS
        free = self._free.setdefault(key, [])
        buffer = free.pop() if free else _Buffer(self._forward.buffer(features), key, 0)
        buffer.num_values = len(values)
        for value in values:
            self._buffers[value] = buffer
            self._views[value] = buffer.view
        return buffer.view

    def _hand_over(self, value: int, to: int) -> View:
        """A value takes the place of another that nobody reads any more."""
        view = self._views[value]
        self._buffers[to] = self._buffers[value]
        self._buffers[to].num_values += 1
        self._views[to] = view
        return view

    def _in_place(self, index: int, value: int, x: Value) -> View:
        """A place that already holds ``x``: its own, or a copy where ``x`` is read again."""
        if self._last_reader[x.index] == index:
            return self._hand_over(x.index, value)
        out = self._take((value,), x.rows, x.features)
        self._forward.scale(self._views[x.index], 1.0, out, x.features)
        return out

    def _release(self, value: int) -> None:
        buffer = self._buffers.pop(value, None)
        if buffer is None:  # it was an operand only
            return
        buffer.num_values -= 1
        if buffer.num_values == 0:
            self._free[buffer.key].append(buffer)

    # Weights.

    def _load(self, weight: Weight) -> F32:
        if weight not in self._loaded:
            self._loaded[weight] = self._source.load(weight)
            self.weight_bytes += self._loaded[weight].nbytes
        return self._loaded[weight]

    def _bias(self, product: Product) -> F32 | None:
        """The biases of all parts, padded as their panels are; those of a gate take turns."""
        biases = [getattr(part, "bias", None) for part in product.parts]
        if all(bias is None for bias in biases):
            return None
        columns = []
        for part, bias in zip(product.parts, biases, strict=True):
            padded = np.full(-(-part.weight.shape[0] // PANEL_COLUMNS) * PANEL_COLUMNS, _NO_BIAS)
            if bias is not None:
                loaded = self._source.load(bias)
                padded[: len(loaded)] = loaded
            columns.append(padded.reshape(-1, PANEL_COLUMNS))
        in_order = np.concatenate(columns) if product.gate is None else np.stack(columns, axis=1)
        return np.ascontiguousarray(in_order.reshape(-1))

    def _rotary_tables(self, table: RotaryTable) -> tuple[F32, F32]:
        if table not in self._rotary:
            self._rotary[table] = rotary_tables(table)
        return self._rotary[table]


def _inputs(operation: FusedOperation) -> tuple[Value, ...]:
    if isinstance(operation, Product):
        return (operation.x,) if operation.addend is None else (operation.x, operation.addend)
    return inputs_of(operation)


def _only_multiplied(fused: Fused) -> dict[int, Product]:
    """The values that a single product reads, as what it multiplies, and which product that is."""
    readers: dict[int, list[FusedOperation]] = {}
    for _, operation in fused.operations:
        for value in _inputs(operation):
            readers.setdefault(value.index, []).append(operation)
    return {
        number: first
        for number, (first, *others) in readers.items()
        if not others and isinstance(first, Product) and first.x.index == number
    }
