"""``python -m octavo.demo``: the main job in half a minute, on a given model or a tiny random one.

Streams one answer, runs a batch that shares a prompt prefix, and shows that each answer is the
same, bit for bit, as when its request runs alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from octavo import LLM, OctavoError, RequestOutput, SamplingParams

BEGINNING = "Once upon a time there was a little"
ANIMALS = ("dog", "cat", "bird", "fish", "bear", "mouse", "frog", "duck")


def write_random_model(folder: Path) -> None:
    """A byte-level tokeniser and the configuration of a tiny Llama; weights are made at load."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({symbol: index for index, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(alphabet),
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


def show_story(llm: LLM, console: Console) -> None:
    """Stream one answer as it is computed."""
    params = SamplingParams(max_tokens=120, temperature=0.0)
    console.print(f"\n[bold]One answer, streamed[/bold] (greedy)\n[cyan]{BEGINNING}[/cyan]", end="")
    started = time.monotonic()
    num_tokens = 0
    for delta in llm.stream(BEGINNING, params):
        console.print(delta.text, end="", markup=False, highlight=False, soft_wrap=True)
        num_tokens += len(delta.token_ids)
    seconds = time.monotonic() - started
    console.print(f"\n[dim]{num_tokens} tokens, {num_tokens / seconds:.0f} tokens/s[/dim]")


def show_batch(llm: LLM, console: Console) -> bool:
    """A batch against the same requests one by one; returns whether all answers are equal."""
    prompts = [f"{BEGINNING} {animal}" for animal in ANIMALS]
    params = SamplingParams(max_tokens=60, temperature=0.8, top_p=0.95, seed=7, logprobs=0)
    started = time.monotonic()
    batch = llm.generate(prompts, params, progress=False)
    batch_s = time.monotonic() - started
    started = time.monotonic()
    alone = [llm.generate(prompt, params, progress=False)[0] for prompt in prompts]
    alone_s = time.monotonic() - started

    table = Table(title=f"{len(prompts)} requests (sampled, seed 7)", title_justify="left")
    for column in ("", "seconds", "tokens/s", "cached prompt tokens"):
        table.add_column(column, justify="left" if not column else "right")
    for name, outputs, seconds in (("together", batch, batch_s), ("one by one", alone, alone_s)):
        tokens = sum(output.usage.completion_tokens for output in outputs)
        cached = sum(output.usage.cached_tokens for output in outputs)
        table.add_row(name, f"{seconds:.2f}", f"{tokens / seconds:.0f}", str(cached))
    console.print()
    console.print(table)
    equal = all(_same(one, other) for one, other in zip(batch, alone, strict=True))
    verdict = "[green]equal[/green]" if equal else "[red]DIFFERENT[/red]"
    console.print(f"Tokens and logprobs, together against one by one: {verdict}")
    return equal


def _same(one: RequestOutput, other: RequestOutput) -> bool:
    pairs = zip(one.choices, other.choices, strict=True)
    return all(a.token_ids == b.token_ids and a.logprobs == b.logprobs for a, b in pairs)


def main() -> int:
    """Run the demo. Exit status: 0 done, 1 answers differed, 2 the model cannot be used."""
    parser = argparse.ArgumentParser(prog="octavo.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a model folder or a hub id (default: tiny random model)")
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        try:
            if arguments.model:
                llm = LLM(arguments.model)
            else:
                write_random_model(Path(folder))
                llm = LLM(folder, weights="dummy")
                console.print(
                    "[yellow]No model given: this one is tiny and random, its words mean nothing."
                    "[/yellow]\nTry: make demo MODEL=path/to/a/model/folder"
                )
        except OctavoError as error:
            Console(stderr=True).print(f"[red]error:[/red] {error}", highlight=False)
            return 2
        with llm:
            show_story(llm, console)
            return 0 if show_batch(llm, console) else 1


if __name__ == "__main__":
    sys.exit(main())
