"""``make demo``: what Octavo does, in under a minute, on the built-in model or another one.

Streams the answer to a request for a story, answers a batch and the same requests one by one, bit
for bit alike, and climbs the ladder of optimisations on the same model.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from pathlib import Path

from octavo import LLM, OctavoError, RequestOutput, SamplingParams
from octavo.bench.ladder import LADDER, climb
from octavo.bench.rung import RungJob, RungResult
from octavo.bench.worker import run_in_worker
from octavo.bench.workload import Workload
from octavo.cli.exit_codes import ExitCode, exit_code_of
from octavo.cli.output import formats_text, has_colours, print_error
from octavo.cli.terminal import Screen
from octavo.core.config import EngineConfig
from octavo.models.builtin import BUILTIN
from octavo.models.folder import resolve

REQUEST = "Tell me a story about a dog who lost his ball."
STORY_SEED = 5
"""A whole story of the built-in model, and one about that."""
MAX_STORY_TOKENS = 1024
"""No story of the built-in model is that long; an answer of another one may be."""
BEGINNING = "Once upon a time there was a little"
ANIMALS = ("dog", "cat", "bird", "fish", "bear", "mouse", "frog", "duck")
WORKLOAD = Workload(groups=4, requests=24, prefix=128, tail=(4, 24), answer=(8, 32))
LADDER_TOKENS = 60_000
"""Tokens that the ladder computes, nearly all of them on its first rung."""
MAX_LADDER_S = 25.0
PROBE_TOKENS = 64
PROBES = 3


def show_story(llm: LLM, screen: Screen) -> None:
    """Stream one answer as it is computed; without a chat template, how a story goes on."""
    prompt: str | list[dict[str, str]]
    screen.say(heading("A story, as it comes"))
    if llm.text.template.names:
        prompt = [{"role": "user", "content": REQUEST}]
        params = llm.sampling_params(seed=STORY_SEED, max_tokens=MAX_STORY_TOKENS)
        screen.note(f"> {REQUEST}")
    else:
        prompt = BEGINNING
        params = SamplingParams(max_tokens=120, temperature=0.7, top_p=0.9, seed=4)
        screen.write(BEGINNING)
    started_s = time.perf_counter()
    first_s, num_tokens = 0.0, 0
    for delta in llm.stream(prompt, params):
        num_tokens += len(delta.token_ids)
        first_s = first_s or time.perf_counter() - started_s
        screen.write(delta.text)
    seconds = time.perf_counter() - started_s
    screen.note(
        f"{num_tokens} tokens, {num_tokens / seconds:,.0f} tokens/s,"
        f" the first one after {first_s * 1000:.0f} ms"
    )


def show_batch(llm: LLM, screen: Screen) -> bool:
    """A batch against the same requests one by one; whether all answers are equal."""
    prompts = [f"{BEGINNING} {animal}" for animal in ANIMALS]
    params = SamplingParams(max_tokens=60, temperature=0.8, top_p=0.95, seed=7, logprobs=0)
    screen.say(heading(f"{len(prompts)} requests (sampled, seed 7)"))
    started_s = time.perf_counter()
    together = llm.generate(prompts, params, progress=False)
    together_s = time.perf_counter() - started_s
    started_s = time.perf_counter()
    alone = [llm.generate(prompt, params, progress=False)[0] for prompt in prompts]
    alone_s = time.perf_counter() - started_s
    for name, seconds in (("together", together_s), ("one by one", alone_s)):
        num_tokens = sum(output.usage.completion_tokens for output in together)
        screen.say(f"  {name:12}{seconds:8.2f} s{num_tokens / seconds:10,.0f} tokens/s")
    equal = all(_same(one, other) for one, other in zip(together, alone, strict=True))
    screen.say(verdict(equal, "every token and every logprob, together and one by one"))
    return equal


def show_ladder(folder: Path, screen: Screen) -> bool:
    """Rung after rung as they are measured; whether all gave the same answers."""
    screen.say(heading(f"The same {WORKLOAD.requests} requests, one optimisation after the other"))
    screen.note(f"  {'':20}{'tokens/s':>10}{'x before':>10}{'x first':>10}{'latency':>12}")
    equal = True
    for step in climb(str(folder), WORKLOAD, measure=_measure, options={}):
        result = step.result
        screen.say(
            f"  {step.rung.name:20}{result.tokens_per_s:10,.0f}{step.over_before:10.1f}"
            f"{step.over_first:10.1f}{result.latency_median_s * 1000:9,.0f} ms"
        )
        equal &= step.is_equal
    screen.say(verdict(equal, f"every token and every logprob, on all {len(LADDER)} rungs"))
    return equal


def ladder_s(llm: LLM) -> float:
    """About how long the ladder takes, from the shortest time of a few prompts."""
    times = []
    for probe in range(PROBES):  # of which none begins like another
        prompt = [(probe + position) % llm.spec.vocab_size for position in range(PROBE_TOKENS)]
        started_s = time.perf_counter()
        llm.generate([prompt], SamplingParams(max_tokens=1), progress=False)
        times.append(time.perf_counter() - started_s)
    return min(times) * LADDER_TOKENS / PROBE_TOKENS


def heading(text: str) -> str:
    return f"\n\x1b[1m{text}\x1b[0m" if has_colours(sys.stdout) else f"\n{text}"


def verdict(equal: bool, what: str) -> str:
    """One line that says whether answers were equal."""
    word, colour = ("equal", 32) if equal else ("DIFFERENT", 31)
    if has_colours(sys.stdout):
        word = f"\x1b[{colour}m{word}\x1b[0m"
    return f"  answers: {word} ({what})"


def _same(one: RequestOutput, other: RequestOutput) -> bool:
    pairs = zip(one.choices, other.choices, strict=True)
    return all(a.token_ids == b.token_ids and a.logprobs == b.logprobs for a, b in pairs)


def _measure(rung: str, job: RungJob) -> RungResult:
    [result] = run_in_worker(job, RungResult)
    return result


def _show_all(name: str) -> int:
    screen = Screen()
    folder = resolve(name)
    if name == BUILTIN:
        screen.say("The built-in model, a small teller of stories.")
        screen.say("With another one: make demo MODEL=path/to/a/model")
    else:
        screen.say(f"Model: {name}")
    config = EngineConfig()
    screen.say(f"Computed with {formats_text(config.weight_format, config.kv_format)}.")
    with LLM(folder) as llm:
        show_story(llm, screen)
        equal = show_batch(llm, screen)
        expected_s = ladder_s(llm)
    if expected_s > MAX_LADDER_S:
        command = " ".join(["octavo bench ladder", *([] if name == BUILTIN else [name]), "--quick"])
        screen.say(f"\nThe ladder would take about {expected_s:.0f} s with this model: {command}")
    else:
        equal &= show_ladder(folder, screen)
    return ExitCode.OK if equal else ExitCode.FAILURE


def main() -> int:
    """Run the demo; exit statuses as those of ``octavo``, 1 if answers differed."""
    parser = argparse.ArgumentParser(prog="octavo.demo", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default=BUILTIN, help="a model folder or a hub id (default: the built-in one)"
    )
    name = parser.parse_args().model
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a story may have characters that it has not
    try:
        return _show_all(name)
    except OctavoError as error:
        print_error(error.message, error.hint)
        return exit_code_of(error)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.BROKEN_PIPE


if __name__ == "__main__":
    sys.exit(main())
