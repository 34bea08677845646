"""Running a model's chat template: Hugging Face's Jinja dialect, sandboxed and with bounds.

A template is a program that came with the weights, so it may be hostile. It cannot reach Python's
insides (Jinja's immutable sandbox), and what it may spend is bounded: its own size, the loop
rounds and calls it makes, the time it takes, and the length of every text on the way. The checks
happen between operations; a single operation of C code is not interrupted, which only a process
that can be killed could do. What a conversation looks like belongs to ``chat_template``.

The dialect is that of ``transformers.utils.chat_template_utils``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from octavo.core.clock import Clock
from octavo.core.errors import ModelError
from octavo.text.template_functions import (
    CONCATENATED,
    EACH,
    MISSING_METHODS,
    SEEN,
    template_filters,
    template_globals,
)
from octavo.text.template_limits import (
    ALLOWANCE,
    Allowance,
    allowance_of,
    check_format,
    check_method,
    check_operator,
    joined,
    measured,
)

MAX_TEMPLATE_CHARACTERS = 2**18


class TemplateProgram:
    """A compiled template.

    Args:
        source: the template's text.
        now: what ``strftime_now`` formats.

    Attributes:
        takes_parts: whether it goes through lists of content parts; otherwise contents must be
            strings.

    Raises:
        ModelError: the source is too long, or not a template.
    """

    def __init__(self, source: str, *, now: Callable[[], datetime] = datetime.now) -> None:
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise ModelError(
                f"the chat template has {len(source)} characters;"
                f" at most {MAX_TEMPLATE_CHARACTERS} are accepted"
            )
        environment = _Environment(now)
        try:
            tree = environment.parse(source)
            self.takes_parts = _takes_parts(tree)
            _Bounder().visit(tree)
            tree.set_environment(environment)
            self._template = jinja2.Template.from_code(
                environment, environment.compile(tree), environment.make_globals(None)
            )
        except jinja2.TemplateSyntaxError as error:
            raise ModelError(
                f"the chat template is not valid: line {error.lineno}: {error.message}"
            ) from error
        except Exception as error:  # whatever Jinja or Python's own compiler stumbles over
            raise ModelError(f"the chat template cannot be compiled: {error!r}") from error

    def render(self, variables: Mapping[str, Any], *, clock: Clock) -> str:
        """The rendered text.

        Raises:
            TemplateRefusal: the template refuses what it was given.
            TemplateTooCostly: a bound was passed.
            Exception: whatever else its code runs into.
        """
        allowance = Allowance(clock)
        return joined("", self._template.generate({**variables, ALLOWANCE: allowance}))


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja as Hugging Face sets it up, with checks around whatever can grow."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    @staticmethod
    def concat(parts: Any) -> str:  # of macros and blocks
        return joined("", parts)

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationTag, loopcontrols],
            finalize=measured,
        )
        self.filters = template_filters(self.filters)
        del self.globals["lipsum"]
        self.globals.update(template_globals(now))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in MISSING_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        allowance = allowance_of(context)
        if isinstance(obj, LoopContext):  # a recursive loop, called with what to go through
            args = tuple(allowance.each(items) for items in args)
        receiver = getattr(obj, "__self__", None)
        if isinstance(receiver, str):
            check_method(receiver, obj.__name__, args)
        return allowance.made(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        check_operator(operator, left, right)
        return allowance_of(context).made(super().call_binop(context, operator, left, right))

    def call_filter(
        self,
        name: str,
        value: Any,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        context: Context | None = None,
        eval_ctx: nodes.EvalContext | None = None,
    ) -> Any:
        """From within ``map`` and its like."""
        assert context is not None
        result = super().call_filter(name, value, args, kwargs, context, eval_ctx)
        return allowance_of(context).made(result)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            check_format(value.__self__)
        return wrapped


class _GenerationTag(Extension):
    """``{% generation %}`` marks what an assistant wrote, for training; here it is a scope."""

    tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Bounder(NodeTransformer):
    """Puts our filters around loops, ``~`` and filters, none of which the sandbox intercepts."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, EACH)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), CONCATENATED)

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, SEEN)


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _takes_parts(tree: nodes.Template) -> bool:
    """Whether a loop goes through something called content."""
    for loop in tree.find_all(nodes.For):
        source: nodes.Node | None = loop.iter
        while isinstance(source, nodes.Filter):
            source = source.node
        match source:
            case nodes.Name(name="content") | nodes.Getattr(attr="content"):
                return True
            case nodes.Getitem(arg=nodes.Const(value="content")):
                return True
    return False
