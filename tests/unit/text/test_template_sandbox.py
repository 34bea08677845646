"""The template dialect and its bounds: hostile templates end soon, honest ones are not touched."""

from __future__ import annotations

import time
from typing import Any

import pytest
from jinja2.exceptions import SecurityError, UndefinedError

from octavo.core.errors import ModelError
from octavo.text.template_functions import TemplateRefusal
from octavo.text.template_limits import TemplateTooCostly
from octavo.text.template_sandbox import MAX_TEMPLATE_CHARACTERS, TemplateProgram


def render(source: str, **variables: Any) -> str:
    return TemplateProgram(source).render(variables, clock=time.monotonic)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% if true %}\n  x\n{% endif %}\n", "  x\n"),
        ("   {% set x = 1 %}\n{{ x }}", "1"),
        ("{{ d | tojson }}", '{"ä": "<&\'"}'),
        ("{{ d | tojson(indent=2) }}", '{\n  "ä": "<&\'"\n}'),
        ("{{ d | tojson(ensure_ascii=true) }}", '{"\\u00e4": "<&\'"}'),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% for i in l %}{{ loop.index }}/{{ loop.length }}{{ loop.last }} {% endfor %}",
         "1/2False 2/2True "),
        ("{% for i in l | map('upper') %}{{ loop.length }}{{ i }}{% endfor %}", "2A2B"),
        ("{% for i in missing %}{% else %}none{% endfor %}", "none"),
        ("{% for i in l recursive %}{{ i }}{% if loop.depth < 3 %}{{ loop(['x']) }}{% endif %}"
         "{% endfor %}", "axxbxx"),
        ("{% set n = namespace(a=1) %}{% set n.a = n.a + 1 %}{{ n.a }}", "2"),
        ("{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}", "21"),
        ("{% macro m(a, b='!') %}{{ a ~ b }}{{ caller() if caller }}{% endmacro %}{{ m(1) }}"
         "{% call m(2) %}c{% endcall %}", "1!2!c"),
        ("{{ 'a b'.split(' ')[1] }}{{ 'x'.join(['1', '2']) }}{{ '{}-{:>3}'.format(1, 2) }}",
         "b1x21-  2"),
        ("{{ l | join(', ') }}{{ [{'k': 1}] | join('', attribute='k') }}", "a, b1"),
        ("{{ 'aab' | replace('a', 'c') }}{{ 'aab' | replace('a', 'c', 1) }}", "ccbcab"),
        ("{{ 'a\nb' | indent(2) }}{{ 'a\nb' | indent(2, true) }}", "a\n  b  a\n  b"),
        ("{{ '%d%%' % 5 }}{{ '%s' | format('y') }}{{ 7 % 4 }}{{ 2 ** 10 }}", "5%y31024"),
        ("{{ [1, 2, 3] | batch(2) | list }}{{ 'abcdef' | truncate(5, true, '', 0) }}",
         "[[1, 2], [3]]abcde"),
        ("{% filter upper %}a{{ 'b' }}{% endfilter %}", "AB"),
        ("{% set x %}a{{ 1 }}{% endset %}{{ x }}", "a1"),
        ("{{ '<' | e }}{{ '<b>' | safe }}{{ none }}{{ undefined_one }}", "&lt;<b>None"),
    ],
)  # fmt: skip
def test_dialect(source: str, expected: str) -> None:
    assert render(source, d={"ä": "<&'"}, l=["a", "b"]) == expected


def test_refusals_carry_the_template_s_sentence() -> None:
    with pytest.raises(TemplateRefusal, match=r"^no such role$"):
        render("{{ raise_exception('no such role') }}")


def nested(body: str) -> str:
    return "{% for a in range(9999) %}" * 3 + body + "{% endfor %}" * 3


def doubling(start: str, again: str, end: str = "") -> str:
    """``n.x`` becomes ``again`` 99 times."""
    loop = "{% for i in range(99) %}{% set n.x = " + again + " %}{% endfor %}"
    return "{% set n = namespace(x=" + start + ") %}" + loop + end


MUCH = "x" * 1000
HOSTILE = {
    "empty loops": nested(""),
    "loops over generators": "{% for a in range(99999) | map('string') %}" * 4 + "{% endfor %}" * 4,
    "wide range": "{% for a in range(10 ** 9) %}{% endfor %}",
    "much output": nested(MUCH),
    "macro with much output": "{% macro m() %}" + nested(MUCH) + "{% endmacro %}{{ m() | length }}",
    "block with much output": "{% set y %}" + nested(MUCH) + "{% endset %}",
    "macros that call twice": (
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}"
    ),
    "recursive loops": (
        "{% for a in range(99999) recursive %}"
        "{{ loop(range(99999)) if loop.depth < 9 }}{% endfor %}"
    ),
    "long string": "{{ 'x' * 10 ** 9 }}",
    "long list": "{{ ([0] * 10 ** 9) | length }}",
    "number times string": "{{ 10 ** 9 * 'x' }}",
    "doubled string": doubling("'x'", "n.x + n.x"),
    "doubled by tilde": doubling("'x'", "n.x ~ n.x"),
    "doubled list": doubling("[1]", "n.x + n.x"),
    "doubled by filter": doubling("'xy'", "n.x | replace('x', n.x)"),
    "doubled by method": doubling("'xy'", "n.x.replace('x', n.x)"),
    "doubled by join": doubling("'xy'", "n.x.join([n.x, n.x])"),
    "doubled by join filter": doubling("'xy'", "[n.x, n.x] | join(n.x)"),
    "nested lists spelt out": doubling("[1]", "[n.x, n.x]", "{{ n.x }}"),
    "nested lists as JSON": doubling("[1]", "[n.x, n.x]", "{{ n.x | tojson }}"),
    "nested lists joined": doubling("[1]", "[n.x, n.x]", "{{ n.x | join }}"),
    "many long strings": (
        "{% set x = 'x' * 10 ** 6 %}{{ range(99999) | map('string') | map('replace', '', x) | list"
        " | length }}"
    ),
    "great power": "{{ 9 ** (9 ** 9) }}",
    "great product": doubling("99", "n.x * n.x"),
    "wide format": "{{ '%1000000000d' % 1 }}",
    "wide format from elsewhere": "{{ '%*d' % (1000000000, 1) }}",
    "wide format filter": "{{ '%1000000000d' | format(1) }}",
    "wide format method": "{{ '{:1000000000}'.format(1) }}",
    "wide format method from elsewhere": "{{ '{:{}}'.format(1, 1000000000) }}",
    "wide format method by filter": "{{ ('{:{}}' | attr('format'))(1, 1000000000) }}",
    "wide batch": "{{ [1] | batch(1000000000, 0) | list }}",
    "wide indent": "{{ ('\n' * 100000) | indent(100000) }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_end_soon(name: str) -> None:
    with pytest.raises((TemplateTooCostly, OverflowError)):
        render(HOSTILE[name])


def test_endless_recursion_ends() -> None:
    with pytest.raises(RecursionError):
        render("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__ }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__ }}",
        "{{ dict.__subclasses__() }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ namespace(__class__=1) }}",
        "{% set n = namespace() %}{% set n._x = 1 %}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ 'x'.center(9) }}",
        "{{ 'x'.zfill(9) }}",
        "{{ strftime_now.__closure__ }}",
        "{{ (messages | map(attribute='__class__') | list)[0] }}",
    ],
)
def test_python_s_insides_are_out_of_reach(source: str) -> None:
    """Either refused, or undefined and so nothing."""
    try:
        text = render(source, messages=["a"])
    except (SecurityError, UndefinedError):
        return
    assert text == ""


@pytest.mark.parametrize("name", ["lipsum()", "x | center(9)", "x | pprint", "x | random"])
def test_what_is_left_out(name: str) -> None:
    with pytest.raises(Exception, match=r"undefined|No filter named"):
        render("{{ " + name + " }}")


@pytest.mark.parametrize(
    "source",
    [
        "x" * (MAX_TEMPLATE_CHARACTERS + 1),
        "{% if %}",
        "{{ (" * 3000,
        "{% if a %}" * 500 + "{% endif %}" * 500,
        "{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
        "{% generation %}",
    ],
)
def test_bad_sources(source: str) -> None:
    with pytest.raises(ModelError, match="chat template"):
        TemplateProgram(source)


@pytest.mark.parametrize(
    ("source", "takes_parts"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", False),
        ("{% for m in messages %}{% for p in m.content %}{% endfor %}{% endfor %}", True),
        ("{% for p in m['content'] %}{% endfor %}", True),
        ("{% set content = m.content %}{% for p in content %}{% endfor %}", True),
        ("{% for p in m.content | selectattr('type') | list %}{% endfor %}", True),
        ("{% for line in m.content.split('x') %}{% endfor %}", False),
    ],
)
def test_which_templates_take_parts(source: str, takes_parts: bool) -> None:
    assert TemplateProgram(source).takes_parts is takes_parts


def test_renderings_do_not_share_an_allowance() -> None:
    program = TemplateProgram("{% for a in range(99999) %}{% endfor %}")
    for _ in range(5):
        assert program.render({}, clock=time.monotonic) == ""
