"""``make demo``: what Octavo does, in under a minute, on a given model or a tiny random one.

Streams a story, answers a batch and the same requests one by one, bit for bit alike, and climbs
the ladder of optimisations on the same model.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from octavo import LLM, OctavoError, RequestOutput, SamplingParams
from octavo.bench.ladder import LADDER, climb
from octavo.bench.rung import RungJob, RungResult
from octavo.bench.worker import run_in_worker
from octavo.bench.workload import Workload
from octavo.cli.exit_codes import ExitCode, exit_code_of
from octavo.cli.output import has_colours, print_error
from octavo.cli.terminal import Screen
from octavo.models.folder import resolve

BEGINNING = "Once upon a time there was a little"
ANIMALS = ("dog", "cat", "bird", "fish", "bear", "mouse", "frog", "duck")
PRINTABLE = "".join(map(chr, range(ord(" "), ord("~") + 1)))
WORKLOAD = Workload(groups=4, requests=24, prefix=128, tail=(4, 24), answer=(8, 32))
LADDER_TOKENS = 60_000
"""Tokens that the ladder computes, nearly all of them on its first rung."""
MAX_LADDER_S = 25.0
PROBE_TOKENS = 64


def write_random_model(folder: Path) -> None:
    """A tokeniser of single characters and the configuration of a tiny Llama; weights are made at
    load."""
    alphabet = [symbol for symbol, _ in pre_tokenizers.ByteLevel().pre_tokenize_str(PRINTABLE)]
    symbols = sorted(set("".join(alphabet)))
    tokenizer = Tokenizer(BPE({symbol: index for index, symbol in enumerate(symbols)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(symbols),
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))


def show_story(llm: LLM, screen: Screen) -> None:
    """Stream one answer as it is computed."""
    params = SamplingParams(max_tokens=120, temperature=0.7, top_p=0.9, seed=4)
    screen.say(heading("A story, as it comes"))
    screen.write(BEGINNING)
    started_s = time.perf_counter()
    first_s, num_tokens = 0.0, 0
    for delta in llm.stream(BEGINNING, params):
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


def show_ladder(folder: Path, options: dict[str, Any], screen: Screen) -> bool:
    """Rung after rung as they are measured; whether all gave the same answers."""
    screen.say(heading(f"The same {WORKLOAD.requests} requests, one optimisation after the other"))
    screen.note(f"  {'':20}{'tokens/s':>10}{'x before':>10}{'x first':>10}{'latency':>12}")
    equal = True
    for step in climb(str(folder), WORKLOAD, measure=_measure, options=options):
        result = step.result
        screen.say(
            f"  {step.rung.name:20}{result.tokens_per_s:10,.0f}{step.over_before:10.1f}"
            f"{step.over_first:10.1f}{result.latency_median_s * 1000:9,.0f} ms"
        )
        equal &= step.is_equal
    screen.say(verdict(equal, f"every token and every logprob, on all {len(LADDER)} rungs"))
    return equal


def ladder_s(llm: LLM) -> float:
    """About how long the ladder takes, from the time of one prompt."""
    prompt = [token_id % llm.spec.vocab_size for token_id in range(PROBE_TOKENS)]
    started_s = time.perf_counter()
    llm.generate([prompt], SamplingParams(max_tokens=1), progress=False)
    return (time.perf_counter() - started_s) * LADDER_TOKENS / PROBE_TOKENS


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


@contextmanager
def _model(name: str | None, screen: Screen) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder of a model, and the options to load it with."""
    if name is not None:
        folder = resolve(name)
        screen.say(f"Model: {name}")
        yield folder, {}
        return
    with tempfile.TemporaryDirectory(prefix="octavo-demo-") as made:
        write_random_model(Path(made))
        screen.say("No model was given: this one is tiny and random, and its words mean nothing.")
        screen.say("With a real one: make demo MODEL=path/to/a/model")
        yield Path(made), {"load_format": "dummy"}


def _show_all(name: str | None) -> int:
    screen = Screen()
    with _model(name, screen) as (folder, options):
        with LLM(folder, **options) as llm:
            show_story(llm, screen)
            equal = show_batch(llm, screen)
            expected_s = ladder_s(llm)
        if expected_s > MAX_LADDER_S:
            command = " ".join(["octavo bench ladder", *([name] if name else []), "--quick"])
            screen.say(
                f"\nThe ladder would take about {expected_s:.0f} s with this model: {command}"
            )
        else:
            equal &= show_ladder(folder, options, screen)
    return ExitCode.OK if equal else ExitCode.FAILURE


def main() -> int:
    """Run the demo; exit statuses as those of ``octavo``, 1 if answers differed."""
    parser = argparse.ArgumentParser(prog="octavo.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a model folder or a hub id (default: tiny random model)")
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
