"""Events to outputs: text, ends of choices, what overshot, and going on after an engine's death."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.core.errors import InvalidRequest, OctavoError, Overloaded
from octavo.core.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    PromptScored,
    Timings,
    Token,
    Usage,
)
from octavo.core.request import ChoiceSoFar, Request, SamplingParams
from octavo.core.step import TokenLogprobs
from octavo.runtime.outputs import ChoiceDelta, OutputAssembler, RequestOutput
from octavo.text.detokenizer import REPLACEMENT
from octavo.text.tokenizer import Tokenizer
from tests.unit.text.small_tokenizers import BOS, END, byte_level_json, write_folder

PROMPT = (BOS, *b"say")
STOP_TOKEN = ord("#")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A byte is its own token id."""
    return Tokenizer.load(write_folder(tmp_path_factory.mktemp("tokenizer"), byte_level_json()))


class ScriptedEngine:
    """An engine that knows beforehand what each choice will say."""

    def __init__(self, answers: Sequence[Sequence[int]], *, context: int = 10**6) -> None:
        self._answers = answers
        self._context = context

    def run(self, request: Request) -> Iterable[Event]:
        """Every event of the request, its choices taking turns."""
        params = request.params
        if params.prompt_logprobs is not None:
            for index in range(1, len(request.prompt_ids)):
                yield PromptScored(request.request_id, index, (TokenLogprobs(-float(index)),))
        known = {so_far.choice: so_far for so_far in request.resume}
        places = {}
        for choice in range(params.n):
            so_far = known.get(choice, ChoiceSoFar(choice, ()))
            assert list(so_far.output_ids) == list(self._answers[choice][: len(so_far.output_ids)])
            if not so_far.finished:
                places[choice] = len(so_far.output_ids)
        while places:
            for choice, place in list(places.items()):
                reason = self._reason(params, choice, place)
                if reason is None:
                    token_id = self._answers[choice][place]
                    logprobs = None
                    if params.logprobs is not None:
                        logprobs = TokenLogprobs(-float(place), (token_id,), (-float(place),))
                    yield Token(request.request_id, choice, place, token_id, logprobs)
                    places[choice] = place = place + 1
                    reason = self._reason(params, choice, place)
                if reason is not None:
                    yield finished(request, choice, reason, place)
                    del places[choice]

    def _reason(self, params: SamplingParams, choice: int, place: int) -> FinishReason | None:
        """Why nothing comes after the first ``place`` tokens."""
        stop_ids = {*params.stop_token_ids, *(() if params.ignore_eos else (END,))}
        if place and self._answers[choice][place - 1] in stop_ids:
            return FinishReason.STOP
        return FinishReason.LENGTH if place >= min(params.max_tokens, self._context) else None


def finished(request: Request, choice: int, reason: FinishReason, num_tokens: int) -> Finished:
    usage = Usage(prompt_tokens=len(PROMPT), cached_tokens=choice, completion_tokens=num_tokens)
    return Finished(request.request_id, choice, reason, None, usage, Timings(0.1, 0.2, 0.3))


def new_request(**params: object) -> Request:
    sampling = SamplingParams(**{"max_tokens": 64, "seed": 1, **params})
    return Request(request_id="r", prompt_ids=PROMPT, params=sampling)


def ids_of(text: str) -> list[int]:
    """A byte a token; ``#`` is the stop token of some tests, ``$`` the model's end token."""
    return [END if byte == ord("$") else byte for byte in text.encode()]


def answer(
    tokenizer: Tokenizer | None, *texts: str, context: int = 10**6, **params: object
) -> tuple[RequestOutput, list[ChoiceDelta]]:
    """The output for a scripted engine that is going to say these texts, and its deltas."""
    request = new_request(n=len(texts), **params)
    assembler = OutputAssembler(request, tokenizer, end_ids=(END,))
    engine = ScriptedEngine([ids_of(text + "$") for text in texts], context=context)
    deltas = list(follow(assembler, engine.run(request)))
    return assembler.output(), deltas


def follow(assembler: OutputAssembler, events: Iterable[Event]) -> Iterable[ChoiceDelta]:
    """Apply events; a choice that is to be aborted gets no more tokens but its accounts."""
    aborted: set[int] = set()
    for event in events:
        if isinstance(event, Token) and event.choice in aborted:
            continue
        delta = assembler.apply(event)
        aborted |= set(assembler.take_aborts())
        if delta is not None:
            yield delta


def check_deltas_add_up(output: RequestOutput, deltas: Sequence[ChoiceDelta]) -> None:
    for choice in output.choices:
        own = [delta for delta in deltas if delta.choice == choice.index]
        assert "".join(delta.text for delta in own) == choice.text
        assert tuple(i for delta in own for i in delta.token_ids) == choice.token_ids
        if choice.logprobs is not None:
            assert tuple(p for delta in own for p in delta.logprobs or ()) == choice.logprobs
            assert [p.top_ids[0] for p in choice.logprobs] == list(choice.token_ids)
        assert [delta.finish_reason for delta in own[:-1]] == [None] * len(own[:-1])
        assert own[-1].finish_reason == choice.finish_reason
        assert own[-1].stop_reason == choice.stop_reason
        assert choice.usage.completion_tokens == len(choice.token_ids)


def test_an_answer_to_its_end_token(tokenizer: Tokenizer) -> None:
    output, deltas = answer(tokenizer, "hé", logprobs=1)
    (choice,) = output.choices
    assert choice.text == "hé"
    assert choice.token_ids == (*"hé".encode(), END), "the end token is an id, but no text"
    assert (choice.finish_reason, choice.stop_reason) == ("stop", None)
    assert output.finished
    assert output.prompt_token_ids == PROMPT
    assert choice.timings == Timings(0.1, 0.2, 0.3)
    assert [delta.text for delta in deltas] == ["h", "", "é", ""]
    check_deltas_add_up(output, deltas)


def test_max_tokens_and_the_model_s_context(tokenizer: Tokenizer) -> None:
    for limits in ({"max_tokens": 3}, {"context": 3}):
        output, deltas = answer(tokenizer, "abcdef", **limits)  # type: ignore[arg-type]
        assert output.choices[0].text == "abc"
        assert output.choices[0].finish_reason == "length"
        check_deltas_add_up(output, deltas)


def test_an_answer_cut_within_a_character(tokenizer: Tokenizer) -> None:
    output, deltas = answer(tokenizer, "a🦙", max_tokens=3)
    assert output.choices[0].text == "a" + REPLACEMENT
    check_deltas_add_up(output, deltas)


def test_a_stop_token_of_the_caller(tokenizer: Tokenizer) -> None:
    params = {"stop_token_ids": (STOP_TOKEN,)}
    output, _ = answer(tokenizer, "ab#cd", **params)
    (choice,) = output.choices
    assert choice.text == "ab"
    assert choice.token_ids == (*b"ab#",)
    assert (choice.finish_reason, choice.stop_reason) == ("stop", STOP_TOKEN)
    output, _ = answer(tokenizer, "ab#cd", include_stop=True, **params)
    assert output.choices[0].text == "ab#"


def test_ignoring_the_end(tokenizer: Tokenizer) -> None:
    output, _ = answer(tokenizer, "ab$cd", ignore_eos=True, max_tokens=5)
    assert output.choices[0].text == "abcd"
    assert output.choices[0].finish_reason == "length"


def test_a_stop_string_drops_what_overshot(tokenizer: Tokenizer) -> None:
    request = new_request(stop=("stop",), logprobs=0)
    assembler = OutputAssembler(request, tokenizer, end_ids=(END,))
    events = list(ScriptedEngine([ids_of("go, stop. And more$")]).run(request))
    deltas = []
    for event in events:
        if delta := assembler.apply(event):
            deltas.append(delta)
        if assembler.output().choices[0].finish_reason:
            break
    assert assembler.take_aborts() == [0]
    assert assembler.take_aborts() == [], "told once"
    assert not assembler.finished, "the engine has not accounted for it"
    for event in events[8:]:  # what was on its way; the abort's answer is the last
        assert assembler.apply(event) is None
    assert assembler.finished
    output = assembler.output()
    (choice,) = output.choices
    assert choice.text == "go, "
    assert bytes(choice.token_ids) == b"go, stop"
    assert (choice.finish_reason, choice.stop_reason) == ("stop", "stop")
    assert choice.usage.completion_tokens == 8
    check_deltas_add_up(output, deltas)


def test_a_stop_string_may_be_kept(tokenizer: Tokenizer) -> None:
    output, deltas = answer(tokenizer, "go, stop. More", stop=("stop",), include_stop=True)
    assert output.choices[0].text == "go, stop"
    check_deltas_add_up(output, deltas)


def test_text_that_only_looked_like_a_stop_comes_late(tokenizer: Tokenizer) -> None:
    output, deltas = answer(tokenizer, "a sto", stop=("stop",))
    assert [delta.text for delta in deltas] == ["a", " ", "", "", "", "sto"]
    assert [len(delta.token_ids) for delta in deltas] == [1] * 6
    check_deltas_add_up(output, deltas)


def test_tokens_past_a_waiting_stop_string_are_not_told(tokenizer: Tokenizer) -> None:
    """``bc`` is found, but ``abcde`` began further left."""
    output, deltas = answer(tokenizer, "abcdx", stop=("abcde", "bc"))
    (choice,) = output.choices
    assert choice.text == "a"
    assert bytes(choice.token_ids) == b"abc"
    assert choice.stop_reason == "bc"
    assert [bytes(delta.token_ids) for delta in deltas] == [b"a", b"b", b"c", b""]
    check_deltas_add_up(output, deltas)

    output, deltas = answer(tokenizer, "abcdex", stop=("abcde", "bc"))
    assert output.choices[0].stop_reason == "abcde"
    assert bytes(output.choices[0].token_ids) == b"abcde"
    check_deltas_add_up(output, deltas)


def test_a_waiting_stop_string_wins_over_the_length(tokenizer: Tokenizer) -> None:
    for limits in ({"max_tokens": 4}, {"context": 4}):
        output, _ = answer(tokenizer, "abcdex", stop=("abcde", "bc"), **limits)  # type: ignore[arg-type]
        assert output.choices[0].stop_reason == "bc"
        assert bytes(output.choices[0].token_ids) == b"abc"


@pytest.mark.parametrize(
    ("min_tokens", "text"), [(2, "a"), (3, "axba"), (5, "axba"), (9, "axbaxbax")]
)
def test_stop_strings_wait_for_min_tokens(tokenizer: Tokenizer, min_tokens: int, text: str) -> None:
    """A stop string that is complete with the last token of min_tokens counts."""
    output, _ = answer(tokenizer, "axbaxbax", stop=("x",), min_tokens=min_tokens, max_tokens=9)
    assert output.choices[0].text == text


def test_end_tokens_before_min_tokens_end_nothing(tokenizer: Tokenizer) -> None:
    request = new_request(min_tokens=2)
    assembler = OutputAssembler(request, tokenizer, end_ids=(END,))
    for index, token_id in enumerate([END, END, END]):
        assert not assembler.output().choices[0].finish_reason
        assembler.apply(Token("r", 0, index, token_id))
    assert assembler.output().choices[0].finish_reason == "stop"


def test_choices_are_independent(tokenizer: Tokenizer) -> None:
    output, deltas = answer(tokenizer, "one", "two stop", "🦙", stop=("stop",), logprobs=2)
    assert [choice.text for choice in output.choices] == ["one", "two ", "🦙"]
    assert [choice.index for choice in output.choices] == [0, 1, 2]
    assert output.usage.completion_tokens == 4 + 8 + 5
    assert output.usage.prompt_tokens == len(PROMPT)
    assert output.usage.cached_tokens == 0, "that of the choice that computed the prompt"
    assert [choice.usage.cached_tokens for choice in output.choices] == [0, 1, 2]
    check_deltas_add_up(output, deltas)


def test_the_prompt_decides_what_the_first_token_means(tokenizer: Tokenizer) -> None:
    """A prompt that ends within a character: the answer completes it."""
    first, second = "é".encode()
    request = Request(
        request_id="r", prompt_ids=(BOS, first), params=SamplingParams(max_tokens=1, seed=0)
    )
    assembler = OutputAssembler(request, tokenizer)
    delta = assembler.apply(Token("r", 0, 0, second))
    assert delta is not None
    assert delta.text == "é"


def test_events_that_come_twice_are_dropped(tokenizer: Tokenizer) -> None:
    request = new_request(n=2, prompt_logprobs=0, logprobs=0)
    engine = ScriptedEngine([ids_of("ab$"), ids_of("🦙$")])
    once, twice = (OutputAssembler(request, tokenizer, end_ids=(END,)) for _ in range(2))
    events = list(engine.run(request))
    for number, event in enumerate(events):
        once.apply(event)
        for repeated in events[: number + 1]:
            twice.apply(repeated)
    assert once.output() == twice.output()
    assert once.output().prompt_logprobs == (None, *(TokenLogprobs(-float(i)) for i in (1, 2, 3)))


def test_prompt_logprobs_that_overlap(tokenizer: Tokenizer) -> None:
    """A replacement may cut the prompt into other pieces."""
    assembler = OutputAssembler(new_request(prompt_logprobs=0), tokenizer)
    scores = [TokenLogprobs(-float(i)) for i in (1, 2, 3)]
    assembler.apply(PromptScored("r", 1, (scores[0], scores[1])))
    assembler.apply(PromptScored("r", 1, (scores[0],)))
    assembler.apply(PromptScored("r", 2, (scores[1], scores[2])))
    assert assembler.output().prompt_logprobs == (None, *scores)


def test_without_a_tokeniser(tokenizer: Tokenizer) -> None:
    output, _ = answer(None, "ab")
    assert output.choices[0].text == ""
    assert output.choices[0].token_ids == (*b"ab", END)
    with pytest.raises(InvalidRequest, match="stop_token_ids"):
        answer(None, "ab", stop=("x",))


def test_an_abort(tokenizer: Tokenizer) -> None:
    request = new_request(stop=("xyz",))
    assembler = OutputAssembler(request, tokenizer)
    for index, token_id in enumerate(b"abx"):
        assembler.apply(Token("r", 0, index, token_id))
    delta = assembler.apply(finished(request, 0, FinishReason.ABORT, 3))
    assert delta == ChoiceDelta(0, "x", (), None, FinishReason.ABORT)
    assert assembler.output().choices[0].text == "abx"
    assert assembler.finished


def test_a_failure(tokenizer: Tokenizer) -> None:
    request = new_request(n=2)
    assembler = OutputAssembler(request, tokenizer)
    assembler.apply(Token("r", 0, 0, ord("a")))
    assert assembler.apply(Failed("r", "overloaded", "the queue is full", "come later")) is None
    assert assembler.finished
    output = assembler.output()
    assert isinstance(output.error, Overloaded)
    assert str(output.error) == "the queue is full (come later)"
    assert output.choices[0].text == "a"
    assert output.choices[0].finish_reason is None
    assert assembler.apply(Token("r", 0, 1, ord("b"))) is None


def test_a_failure_with_an_unknown_code_keeps_it(tokenizer: Tokenizer) -> None:
    assembler = OutputAssembler(new_request(), tokenizer)
    assembler.apply(Failed("r", "of_tomorrow", "new"))
    assert type(assembler.error) is OctavoError
    assert assembler.error.code == "of_tomorrow"
    assert OctavoError("x").code == "octavo_error"


def test_an_output_that_is_not_finished(tokenizer: Tokenizer) -> None:
    assembler = OutputAssembler(new_request(stop=("bcd",)), tokenizer, prompt="say")
    for index, token_id in enumerate(b"ab"):
        assembler.apply(Token("r", 0, index, token_id))
    output = assembler.output()
    assert (output.finished, output.prompt, output.error) == (False, "say", None)
    assert output.choices[0].text == "a"
    assert assembler.num_output_tokens == 2


ANSWERS = ["a 🦙 and sto, stop it", "x🦙🦙 abcdx", "plain"]


def run_with_deaths(
    tokenizer: Tokenizer, request: Request, lives: Sequence[int]
) -> tuple[RequestOutput, list[ChoiceDelta]]:
    """Each engine dies after so many events; the last one lives on."""
    engine = ScriptedEngine([ids_of(text + "$") for text in ANSWERS])
    assembler = OutputAssembler(request, tokenizer, end_ids=(END,))
    deltas: list[ChoiceDelta] = []
    submitted = request
    for life in lives:
        events = list(engine.run(submitted))[:life]
        deltas += follow(assembler, events)
        submitted = assembler.resume_record()
        assert submitted.seed == request.seed
        if assembler.finished:
            break
    deltas += follow(assembler, engine.run(submitted))
    return assembler.output(), deltas


RESUMED = [
    {"stop": ("stop", "abcde", "bc")},
    {"stop": ("stop", "abcde", "bc"), "include_stop": True, "min_tokens": 3},
    {"max_tokens": 9},
    {"stop_token_ids": (ord("d"),), "prompt_logprobs": 0},
]


@pytest.mark.parametrize("params", RESUMED)
def test_an_engine_may_die_after_any_event(tokenizer: Tokenizer, params: dict[str, object]) -> None:
    """Within a character, within a stop string, after an end token whose Finished is lost."""
    request = new_request(n=len(ANSWERS), logprobs=0, **params)
    expected, _ = run_with_deaths(tokenizer, request, [])
    assert expected.finished
    for life in range(80):
        output, deltas = run_with_deaths(tokenizer, request, [life])
        assert_same_answers(output, expected)
        check_deltas_add_up(output, deltas)


@given(lives=st.lists(st.integers(0, 40), max_size=5), params=st.sampled_from(RESUMED))
def test_engines_may_die_again_and_again(
    tokenizer: Tokenizer, lives: list[int], params: dict[str, object]
) -> None:
    request = new_request(n=len(ANSWERS), logprobs=0, **params)
    output, deltas = run_with_deaths(tokenizer, request, lives)
    assert_same_answers(output, run_with_deaths(tokenizer, request, [])[0])
    check_deltas_add_up(output, deltas)


def assert_same_answers(output: RequestOutput, expected: RequestOutput) -> None:
    """All but the accounts, which may have died with an engine."""
    assert output.finished
    assert output.prompt_logprobs == expected.prompt_logprobs
    for choice, other in zip(output.choices, expected.choices, strict=True):
        for field in ("text", "token_ids", "logprobs", "finish_reason", "stop_reason"):
            assert getattr(choice, field) == getattr(other, field)
        assert choice.usage.completion_tokens == other.usage.completion_tokens


def test_a_resume_record_marks_what_is_finished(tokenizer: Tokenizer) -> None:
    request = new_request(n=2, stop=("stop",))
    assembler = OutputAssembler(request, tokenizer, end_ids=(END,))
    for index, token_id in enumerate(b"stop"):
        assembler.apply(Token("r", 0, index, token_id))
    assembler.apply(Token("r", 1, 0, ord("s")))
    record = assembler.resume_record()
    assert record.resume == (
        ChoiceSoFar(0, tuple(b"stop"), finished=True),
        ChoiceSoFar(1, (ord("s"),)),
    )
    assert assembler.take_aborts() == [], "there is nobody to tell"
    assert not assembler.finished


def test_cost_of_a_token(tokenizer: Tokenizer) -> None:
    """Ten microseconds are expected; the limit is ten times that."""
    num_tokens = 20_000
    request = new_request(max_tokens=num_tokens, stop=("\nUser:", "</s>"))
    assembler = OutputAssembler(request, tokenizer, end_ids=(END,))
    text = b"Some words, and <now> then\nU n\xc3\xa9w line. "
    events = [Token("r", 0, i, text[i % len(text)]) for i in range(num_tokens)]
    started = time.process_time()
    for event in events:
        assembler.apply(event)
    microseconds = (time.process_time() - started) / num_tokens * 1e6
    print(f"{microseconds:.1f} us a token")
    assert assembler.output().choices[0].finish_reason == "length"
    assert microseconds < 100
