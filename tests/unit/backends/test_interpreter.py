"""The walk through a program, with a backend that writes down what it is asked to do."""

from __future__ import annotations

from octavo.backends.interpreter import Interpreter
from octavo.program.builder import ProgramBuilder
from octavo.program.ir import Activation, Operation, Program, RotaryTable, Weight

Step = str


class Scribe:
    """Values are the texts of how they came about. ``calls`` has the step and the operation."""

    def __init__(self) -> None:
        self.calls: list[tuple[Step, str]] = []

    def _write(self, operation: Operation, step: Step, *inputs: str) -> str:
        name = type(operation).__name__.lower()
        self.calls.append((step, name))
        return f"{name}({', '.join(inputs)})"

    embed = norm = linear = rotary = head_norm = attend = activate = glu = add = scale = _write
    take = logits = _write


def every_operation() -> Program:
    builder = ProgramBuilder(8)
    table = Weight("table", (5, 4))
    x = builder.embed_tokens(table)
    y = builder.rms_norm(x, Weight("norm", (4,)), eps=1e-5)
    q = builder.rotary(y, RotaryTable((1.0,), 1.0, 8), num_heads=2)
    k = builder.head_norm(y, Weight("head", (2,)), num_heads=2, eps=1e-5)
    v = builder.linear(y, Weight("w", (4, 4)))
    y = builder.attend(q, k, v, num_heads=2, num_kv_heads=2, scale=1.0)
    y = builder.glu(builder.activate(y, Activation.RELU), y, Activation.SILU)
    x = builder.add(x, builder.scale(y, 2.0))
    taken = builder.take(x)
    both = builder.add(taken, builder.take(y))
    return builder.finish(both, table)


def test_inputs_arrive_in_order() -> None:
    interpreter = Interpreter[Step, str](every_operation(), Scribe())
    logits = interpreter.run_heads("heads", interpreter.run_tokens("tokens"))
    attended = "attend(rotary(norm(embed())), headnorm(norm(embed())), linear(norm(embed())))"
    gated = f"glu(activate({attended}), {attended})"
    assert logits == f"logits(add(take(add(embed(), scale({gated}))), take({gated})))"


def test_tokens_once_and_heads_once_a_block() -> None:
    scribe = Scribe()
    interpreter = Interpreter[Step, str](every_operation(), scribe)
    values = interpreter.run_tokens("all")
    first = interpreter.run_heads("block 1", values)
    assert interpreter.run_heads("block 2", values) == first
    heads = ["take", "take", "add", "logits"]
    assert [name for step, name in scribe.calls if step == "block 1"] == heads
    assert [name for step, name in scribe.calls if step == "block 2"] == heads
    assert sum(step == "all" for step, _ in scribe.calls) == len(scribe.calls) - 2 * len(heads)


def test_only_what_the_heads_read_outlives_the_tokens() -> None:
    interpreter = Interpreter[Step, str](every_operation(), Scribe())
    values = interpreter.run_tokens("all")
    assert [text.split("(")[0] for text in values.values()] == ["glu", "add"]
