"""The front door: what goes in, what comes out, and what is said of what cannot be served."""

from __future__ import annotations

import gc
import json
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octavo import LLM, OctavoError, Priority, SamplingParams
from octavo.core.errors import ConfigError, InvalidRequest, Misuse, ModelError, ModelNotFound
from octavo.core.events import Event
from octavo.core.kv_layout import PAGE_SIZE
from octavo.core.request import Request
from octavo.runtime.outputs import ChoiceDelta, OutputAssembler
from tests.small_model import END, VOCAB, write_small_model
from tests.tiny import write_tiny_model

GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("llm"))


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    with LLM(folder) as llm:
        yield llm


def test_text_and_token_ids_are_the_same_prompt(llm: LLM) -> None:
    assert llm.text.tokenizer is not None
    ids = llm.text.tokenizer.encode("Hello")
    text, numbers = llm.generate(["Hello", ids], GREEDY)
    assert text.choices[0].token_ids == numbers.choices[0].token_ids
    assert (text.prompt, numbers.prompt) == ("Hello", None)
    assert text.text == llm.text.tokenizer.decode(text.choices[0].token_ids)


def test_arrays_are_token_ids(llm: LLM) -> None:
    ids = [5, 6, 7]
    forms: list[Any] = [
        ids,
        tuple(ids),
        np.array(ids),
        np.array(ids, np.int32),
        list(np.array(ids)),
    ]
    texts = {output.text for output in llm.generate(forms, GREEDY)}
    texts |= {llm.generate(form, GREEDY)[0].text for form in forms}
    texts |= {output.text for output in llm.generate(np.array([ids, ids]), GREEDY)}  # type: ignore[arg-type]
    assert len(texts) == 1


def test_a_single_prompt_gives_a_list_of_one(llm: LLM) -> None:
    assert len(llm.generate("Hello", GREEDY)) == 1
    assert len(llm.generate([5, 6], GREEDY)) == 1
    assert llm.generate([], GREEDY) == []


def test_outputs_keep_the_order_of_prompts(llm: LLM) -> None:
    prompts = [f"prompt number {number}" for number in range(40)]
    params = [SamplingParams(max_tokens=1 + number % 7, seed=number) for number in range(40)]
    outputs = llm.generate(prompts, params)
    assert [output.prompt for output in outputs] == prompts
    alone = llm.generate(prompts[33], params[33])[0]
    assert alone.choices[0].token_ids == outputs[33].choices[0].token_ids


def test_results_tell_usage_and_timings(folder: Path) -> None:
    with LLM(folder) as llm:
        first = llm.generate("A long enough prompt to fill two pages", GREEDY)[0]
        second = llm.generate("A long enough prompt to fill two pages", GREEDY)[0]
    assert (first.usage.prompt_tokens, first.usage.cached_tokens) == (38, 0)
    assert (second.usage.cached_tokens, second.usage.completion_tokens) == (32, 12)
    timings = second.choices[0].timings
    assert timings is not None
    assert 0 <= timings.started_s <= timings.first_token_s <= timings.finished_s


def test_tenants_share_no_pages(folder: Path) -> None:
    prompt = "A long enough prompt to fill two pages"
    with LLM(folder) as llm:
        llm.generate(prompt, GREEDY, tenant="a")
        assert llm.generate(prompt, GREEDY, tenant="b")[0].usage.cached_tokens == 0
        assert llm.generate(prompt, GREEDY, tenant="a")[0].usage.cached_tokens == 32


def test_streamed_pieces_add_up(llm: LLM) -> None:
    params = SamplingParams(max_tokens=20, seed=4, n=2, logprobs=1)
    whole = llm.generate("Once", params)[0]
    deltas = list(llm.stream("Once", params))
    for choice in whole.choices:
        mine = [delta for delta in deltas if delta.choice == choice.index]
        assert "".join(delta.text for delta in mine) == choice.text
        assert tuple(token for delta in mine for token in delta.token_ids) == choice.token_ids
        assert mine[-1].finish_reason == choice.finish_reason


def test_streams_can_be_read_in_turn(llm: LLM) -> None:
    alone = [delta.token_ids for delta in llm.stream("Hello", GREEDY)]
    one, other = llm.stream("Hello", GREEDY), llm.stream("Hello", GREEDY)
    both = [(first.token_ids, second.token_ids) for first, second in zip(one, other, strict=True)]
    assert [first for first, _ in both] == [second for _, second in both] == alone


def test_a_stream_that_is_left_gives_its_pages_back(folder: Path) -> None:
    with LLM(folder) as llm:
        stream = llm.stream("Hello", SamplingParams(max_tokens=200, ignore_eos=True))
        next(stream)
        assert llm.stats().scheduler.running == 1
        stream.close()
        counts = llm.stats().scheduler
        assert (counts.running, counts.waiting) == (0, 0)
        assert all(pages.held == 0 for pages in counts.pages)


def test_chat_is_the_template_and_then_a_prompt(llm: LLM) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    assert llm.text.tokenizer is not None
    prompt = llm.text.tokenizer.encode_template(f"user: Hi{END}\nassistant:")
    chat = llm.chat(messages, GREEDY)[0]
    assert list(chat.prompt_token_ids) == prompt
    assert chat.text == llm.generate(prompt, GREEDY)[0].text
    two = llm.chat([messages, [{"role": "user", "content": "Ho"}]], GREEDY)
    assert two[0].text == chat.text
    assert "".join(delta.text for delta in llm.stream(messages, GREEDY)) == chat.text


def test_a_typed_end_token_does_not_end_a_message(llm: LLM) -> None:
    output = llm.chat([{"role": "user", "content": f"Hi{END}"}], GREEDY)[0]
    assert output.prompt_token_ids.count(VOCAB - 1) == 1


def test_stop_strings_end_the_answer_and_the_work(folder: Path) -> None:
    with LLM(folder) as llm:
        text = llm.generate("Hello", SamplingParams(max_tokens=40, seed=3))[0].text
        stop = next(char for char in text if char.isascii() and char.isprintable())
        output = llm.generate("Hello", SamplingParams(max_tokens=40, seed=3, stop=(stop,)))[0]
        assert output.text == text[: text.index(stop)]
        assert output.choices[0].stop_reason == stop
        assert llm.stats().scheduler.running == 0


def test_end_tokens_end_the_answer_unless_ignored(llm: LLM) -> None:
    forced = {"logit_bias": {VOCAB - 1: 100.0}, "temperature": 0.0, "max_tokens": 5}
    ended = llm.generate("Hello", SamplingParams(**forced))[0]
    assert (ended.choices[0].finish_reason, ended.text) == ("stop", "")
    going_on = llm.generate("Hello", SamplingParams(ignore_eos=True, **forced))[0]
    assert going_on.choices[0].finish_reason == "length"
    later = llm.generate("Hello", SamplingParams(min_tokens=3, **forced))[0]
    assert len(later.choices[0].token_ids) == 4


def test_the_context_ends_an_answer(folder: Path) -> None:
    with LLM(folder, max_model_len=24) as llm:
        output = llm.generate("Hello", SamplingParams(max_tokens=100, ignore_eos=True))[0]
    assert output.choices[0].finish_reason == "length"
    assert output.usage.completion_tokens == 24 - 5


def test_no_seed_draws_anew(llm: LLM) -> None:
    params = SamplingParams(max_tokens=30, ignore_eos=True)
    assert len({output.text for output in llm.generate(["Hello"] * 4, params)}) > 1


def test_priorities_go_first(folder: Path) -> None:
    with LLM(folder, policy="priority", max_num_seqs=1) as llm:
        batch = llm.stream("Hello", GREEDY, priority=Priority.BATCH)
        next(batch)
        urgent = llm.generate("Hello", GREEDY, priority=Priority.INTERACTIVE)[0]
        assert urgent.finished
        assert llm.stats().scheduler.displacements == 1
        assert sum(len(delta.token_ids) for delta in batch) == 11, "the batch request goes on"


BAD_REQUESTS: list[tuple[Any, dict[str, Any], str]] = [
    ([], {}, "empty"),
    ([VOCAB], {}, "outside of the vocabulary"),
    ([-1], {}, "outside of the vocabulary"),
    (["x", "y"], {}, "takes token ids"),
    ([True], {}, "takes token ids"),
    ([1.5], {}, "takes token ids"),
    ([1] * 600, {}, "no room for an answer"),
    ([1], {"logit_bias": {VOCAB: 1.0}}, "outside of the vocabulary"),
    ([1], {"stop_token_ids": (99999,)}, "outside of the vocabulary"),
    ([1], {"allowed_token_ids": (-1,)}, "outside of the vocabulary"),
    ([1], {"bad_words": ((5, VOCAB),)}, "outside of the vocabulary"),
]


@pytest.mark.parametrize(("prompt", "fields", "message"), BAD_REQUESTS)
def test_bad_requests_are_refused_before_anything_is_computed(
    llm: LLM, prompt: Any, fields: dict[str, Any], message: str
) -> None:
    before = llm.stats()
    with pytest.raises(InvalidRequest, match=message):
        llm.generate(["Hello", prompt, "World"], SamplingParams(**fields))
    with pytest.raises(InvalidRequest, match=message):
        llm.stream(prompt, SamplingParams(**fields))
    after = llm.stats()
    assert after.steps == before.steps
    assert after.scheduler.waiting == 0


def test_the_error_names_the_prompt(llm: LLM) -> None:
    with pytest.raises(InvalidRequest, match=r"^prompt 2: "):
        llm.generate([[1], [2], [VOCAB]], GREEDY)


@pytest.mark.parametrize("prompts", [None, 5, 1.5, object(), [None], [{"a": 1}], [[None]]])
def test_what_is_no_prompt_at_all_is_refused(llm: LLM, prompts: Any) -> None:
    with pytest.raises(InvalidRequest, match="prompt"):
        llm.generate(prompts, GREEDY)


def test_params_must_match_the_prompts(llm: LLM) -> None:
    with pytest.raises(InvalidRequest, match="2 sampling parameters for 3 prompts"):
        llm.generate(["a", "b", "c"], [GREEDY, GREEDY])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_seqs": 3}, "did you mean 'max_num_seqs'"),
        ({"backend": "native2"}, "backend must be one of"),
        ({"policy": "fifo"}, "policy must be one of"),
        ({"max_model_len": 100_000}, "max_model_len must be in"),
        ({"num_pages": 2, "max_num_seqs": 0}, "max_num_seqs must be"),
    ],
)
def test_bad_options_are_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LLM(folder, **options)


def test_a_model_without_a_tokeniser_speaks_ids(tmp_path: Path) -> None:
    with LLM(write_tiny_model(tmp_path)) as llm:
        output = llm.generate([1, 2, 3], GREEDY)[0]
        assert (output.text, len(output.choices[0].token_ids)) == ("", 12)
        with pytest.raises(InvalidRequest, match="no tokeniser"):
            llm.generate("Hello", GREEDY)
        with pytest.raises(InvalidRequest, match="no tokeniser"):
            llm.chat([{"role": "user", "content": "Hi"}], GREEDY)
        with pytest.raises(InvalidRequest, match="stop strings need a tokeniser"):
            llm.generate([1], SamplingParams(stop=("x",)))


def test_a_tokeniser_from_elsewhere(folder: Path, tmp_path: Path) -> None:
    write_tiny_model(tmp_path, vocab_size=VOCAB)
    with LLM(tmp_path, tokenizer=folder) as llm:
        assert llm.generate("Hello", GREEDY)[0].usage.prompt_tokens == 5
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        LLM(tmp_path, tokenizer=tmp_path)


def test_dummy_weights_need_only_a_configuration(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError):
        LLM(tmp_path)
    with LLM(tmp_path, load_format="dummy") as llm:
        assert len(llm.generate([1], GREEDY)[0].choices[0].token_ids) == 12


def test_a_missing_model_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound) as caught:
        LLM(tmp_path / "nothing")
    assert caught.value.hint
    assert isinstance(caught.value, OctavoError)


def test_every_family_answers(tmp_path: Path) -> None:
    for family in ("llama", "mistral", "qwen2", "qwen3", "gpt2"):
        with LLM(write_small_model(tmp_path / family, family)) as llm:
            assert len(llm.generate("Hello", GREEDY)[0].choices[0].token_ids) == 12


def work_until(timer: threading.Timer, llm: LLM) -> None:
    """Work for a second or more; on a busy machine the timer may be up before its start returns."""
    timer.start()
    llm.generate(["Hello"] * 100, SamplingParams(max_tokens=400, ignore_eos=True))


@pytest.mark.parametrize("options", [{}, {"steps_in_flight": 2}, {"kv_cache": False}])
def test_ctrl_c_ends_the_call_and_not_the_model(folder: Path, options: dict[str, Any]) -> None:
    with LLM(folder, **options) as llm:
        expected = llm.generate("Hello", GREEDY)[0].text
        for delay_s in (0.002, 0.01, 0.03):
            timer = threading.Timer(delay_s, signal.raise_signal, [signal.SIGINT])
            with pytest.raises(KeyboardInterrupt):
                work_until(timer, llm)
            timer.join()
            counts = llm.stats().scheduler
            assert (counts.running, counts.waiting) == (0, 0)
            assert llm.generate("Hello", GREEDY)[0].text == expected


def test_ctrl_c_leaves_other_streams_alone(folder: Path) -> None:
    with LLM(folder) as llm:
        expected = [delta.token_ids for delta in llm.stream("Hello", GREEDY)]
        stream = llm.stream("Hello", GREEDY)
        first = next(stream).token_ids
        timer = threading.Timer(0.01, signal.raise_signal, [signal.SIGINT])
        with pytest.raises(KeyboardInterrupt):
            work_until(timer, llm)
        timer.join()
        assert [first, *(delta.token_ids for delta in stream)] == expected


def test_after_close_everything_says_so(folder: Path) -> None:
    llm = LLM(folder, steps_in_flight=2)
    stream = llm.stream("Hello", GREEDY)
    next(stream)
    llm.close()
    llm.close()
    with pytest.raises(OctavoError, match="closed"):
        list(stream)
    for call in (
        lambda: llm.generate("Hello", GREEDY),
        lambda: llm.stream("Hello", GREEDY),
        lambda: llm.beam_search("Hello", width=2, max_tokens=3),
        llm.stats,
    ):
        with pytest.raises(Misuse, match="closed"):
            call()


def test_a_stream_that_nobody_reads_costs_nothing(folder: Path) -> None:
    with LLM(folder) as llm:
        llm.stream("Hello", GREEDY).close()
        assert llm.stats().scheduler.waiting == 0
        stream = llm.stream("Hello", GREEDY)
        del stream
        gc.collect()
        assert llm.stats().scheduler.waiting == 0
        assert llm.stats().steps == 0


def test_reading_a_closed_stream_ends(llm: LLM) -> None:
    stream = llm.stream("Hello", GREEDY)
    next(stream)
    stream.close()
    assert list(stream) == []


def test_a_reader_that_fails_fails_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LLM(folder) as llm:
        alone = llm.generate("b", GREEDY)[0]
        apply = OutputAssembler.apply

        def sometimes(self: OutputAssembler, event: Event) -> ChoiceDelta | None:
            if len(self.request.prompt_ids) == 3:
                raise RuntimeError("out of luck")
            return apply(self, event)

        monkeypatch.setattr(OutputAssembler, "apply", sometimes)
        first, *others = llm.generate(["aaa", "b", "b"], GREEDY)
        assert first.error is not None
        assert "RuntimeError" in str(first.error)
        assert [other.text for other in others] == [alone.text] * 2
        assert llm.stats().scheduler.running == 0


def test_without_parameters_the_model_is_sampled_as_its_makers_suggest(tmp_path: Path) -> None:
    folder = write_small_model(tmp_path / "model")
    suggested = {"do_sample": True, "temperature": 0.25, "top_k": 7}
    (folder / "generation_config.json").write_text(json.dumps(suggested))
    with LLM(folder) as llm:
        params = llm.sampling_params(max_tokens=3, seed=1)
        assert (params.temperature, params.top_k, params.max_tokens) == (0.25, 7, 3)
        assert llm.sampling_params(temperature=0.0) == SamplingParams(temperature=0.0, top_k=7)
        with pytest.raises(InvalidRequest, match="did you mean 'max_tokens'"):
            llm.sampling_params(max_token=3)
        submitted: list[SamplingParams] = []
        submit = llm._routes.open

        def open_and_look(request: Request, reader: Any) -> None:
            submitted.append(request.params)
            submit(request, reader)

        llm._routes.open = open_and_look  # type: ignore[method-assign]
        llm.generate(["Hello", "Once"])
        seen = [(params.temperature, params.top_k, params.max_tokens) for params in submitted]
        assert seen == [(0.25, 7, 16)] * 2


def test_a_chat_without_parameters_goes_on_to_its_end(tmp_path: Path) -> None:
    """Or to where the context or the pages end: never refused for want of room."""
    folder = write_small_model(tmp_path / "model")
    (folder / "generation_config.json").write_text('{"do_sample": false}')
    for options in ({}, {"num_pages": 5}):
        with LLM(folder, **options) as llm:
            messages = [{"role": "user", "content": "Hi"}]
            [output] = llm.chat(messages)
            choice = output.choices[0]
            assert output.error is None
            if choice.finish_reason == "length":
                whole = choice.usage.prompt_tokens + choice.usage.completion_tokens
                assert whole == min(llm.max_model_len, (llm.num_pages - 1) * PAGE_SIZE + 1)
            else:
                assert choice.finish_reason == "stop"
            streamed = "".join(
                delta.text for delta in llm.stream([{"role": "user", "content": "Hi"}])
            )
            assert streamed == output.text


def test_it_cannot_be_copied(llm: LLM) -> None:
    with pytest.raises(TypeError, match="make one there"):
        pickle.dumps(llm)


def test_a_full_queue_is_waited_for(folder: Path) -> None:
    with LLM(folder, max_waiting_requests=2, max_num_seqs=2) as llm:
        outputs = llm.generate([f"number {number}" for number in range(20)], GREEDY)
        assert [output.prompt for output in outputs] == [f"number {number}" for number in range(20)]
        assert all(output.error is None for output in outputs)


def test_a_stop_string_that_ends_an_answer_while_the_queue_is_full(folder: Path) -> None:
    """The engine's last word on that answer comes together with its refusal of the next."""
    with LLM(folder, max_waiting_requests=1, max_num_seqs=1) as llm:
        text = llm.generate("Hello", SamplingParams(max_tokens=40, seed=3))[0].text
        later = (char for char in text if char.isascii() and char not in text[:3])
        stop = next(filter(str.isprintable, later))  # when somebody else waits already
        outputs = llm.generate(["Hello"] * 4, SamplingParams(max_tokens=40, seed=3, stop=(stop,)))
        assert [output.text for output in outputs] == [text[: text.index(stop)]] * 4
        assert all(output.choices[0].stop_reason == stop for output in outputs)


WRONG_CALLS: list[Callable[[LLM], Any]] = [
    lambda llm: llm.generate("a", params=5),  # type: ignore[arg-type]
    lambda llm: llm.generate("a", params={"max_tokens": 3}),  # type: ignore[arg-type]
    lambda llm: llm.generate("a", params=[None, 1]),  # type: ignore[list-item]
    lambda llm: llm.generate("a", priority="high"),  # type: ignore[arg-type]
    lambda llm: llm.generate("a", priority=77),  # type: ignore[arg-type]
    lambda llm: llm.generate("a", tenant=5),  # type: ignore[arg-type]
    lambda llm: llm.generate("a", tenant="\ud800"),
    lambda llm: llm.generate("\ud800"),
    lambda llm: llm.generate(b"abc"),  # type: ignore[arg-type]
    lambda llm: llm.generate({"a": 1}),  # type: ignore[arg-type]
    lambda llm: llm.generate({"a"}),  # type: ignore[arg-type]
    lambda llm: llm.generate([2**70]),
    lambda llm: llm.chat(None),  # type: ignore[arg-type]
    lambda llm: llm.chat({"role": "user"}),  # type: ignore[arg-type]
    lambda llm: llm.chat([5]),  # type: ignore[list-item]
    lambda llm: llm.chat([{"role": "user", "content": "x"}], template_options=5),  # type: ignore[arg-type]
    lambda llm: llm.chat([{"role": "user", "content": "x"}], template_options={5: 1}),  # type: ignore[dict-item]
    lambda llm: llm.chat([{"role": "user", "content": "x"}], template_options={"messages": 1}),
    lambda llm: llm.chat([{"role": "user", "content": "x"}], template_options={"template": []}),
    lambda llm: llm.chat(
        [{"role": "user", "content": "x"}], template_options={"continue_final_message": "5"}
    ),
    lambda llm: llm.chat([{"role": "assistant", "content": "x", "tool_calls": 5}]),
    lambda llm: llm.chat([{"role": "assistant", "content": "x", "tool_calls": [5]}]),
    lambda llm: llm.stream(5),  # type: ignore[arg-type]
    lambda llm: llm.stream({}),  # type: ignore[arg-type]
    lambda llm: llm.stream("a", {"max_tokens": 3}),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("call", WRONG_CALLS)
def test_wrong_calls_are_refused_and_leave_nothing(llm: LLM, call: Callable[[LLM], Any]) -> None:
    with pytest.raises(InvalidRequest):
        call(llm)
    counts = llm.stats().scheduler
    assert (counts.running, counts.waiting) == (0, 0)


@pytest.mark.parametrize("model", [None, 5, b"x", ["a"]])
def test_what_is_no_model_is_refused(model: Any) -> None:
    with pytest.raises(OctavoError):
        LLM(model)


@pytest.mark.parametrize(
    "options",
    [{"num_pages": 10**9}, {"num_pages": 10**30}, {"num_threads": 5000}, {"max_num_seqs": 10**12}],
)
def test_settings_beyond_the_machine_are_refused(folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        LLM(folder, **options)


def test_an_unknown_instruction_set_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCTAVO_CPU_ISA", "bogus")
    with pytest.raises(ConfigError, match="bogus"):
        LLM(folder)
