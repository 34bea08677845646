"""The Python around the model: microseconds a step outside the forward pass, by part.

    python -m octavo.bench.overhead [--rows 1 32] [--json]

A tiny random model is decoded through ``LLM`` internals, from plan to text-free output; what the
backend computes is left out of the sum.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from octavo import LLM, SamplingParams
from octavo.engine.engine import EngineStats

CONTEXT = 1024
TOKENS = 256
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}
PARTS = ("plan", "batch", "result", "apply")


def measure(folder: Path, rows: int) -> dict[str, float]:
    """Microseconds a step: each part, everything else outside the backend, and their sum."""
    params = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
    prompts = [[row + 1] * 16 for row in range(rows)]
    with LLM(folder, weights="dummy", max_num_seqs=rows, max_num_batched_tokens=1024) as llm:
        llm.generate(prompts, params, progress=False)  # warm
        before = llm.stats()
        started = time.perf_counter()
        llm.generate(prompts, params, progress=False)
        wall_s = time.perf_counter() - started
        after = llm.stats()

    def spent(part: str) -> float:
        return _seconds(after, part) - _seconds(before, part)

    steps = after.steps - before.steps
    parts = {part: spent(part) / steps * 1e6 for part in PARTS}
    outside = (wall_s - spent("run")) / steps * 1e6
    parts["messages and output"] = outside - sum(parts.values())
    parts["total"] = outside
    return parts


def _seconds(stats: EngineStats, part: str) -> float:
    return float(getattr(stats, f"{part}_s"))


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--repeat", type=int, default=5, help="the median of this many is printed")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(CONFIG))
        for rows in arguments.rows:
            runs = [measure(folder, rows) for _ in range(arguments.repeat)]
            results[rows] = sorted(runs, key=lambda run: run["total"])[len(runs) // 2]
    if arguments.json:
        print(json.dumps(results))
        return
    print("microseconds a step outside the forward pass (median run)")
    for rows, parts in results.items():
        print(f"{rows:4d} rows: " + ", ".join(f"{name} {us:.0f}" for name, us in parts.items()))


if __name__ == "__main__":
    main()
