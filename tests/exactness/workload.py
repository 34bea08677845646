"""The requests that every variant of the machinery must answer alike, and how they are compared."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from octavo import LLM, RequestOutput, SamplingParams

VOCAB = 199
MAX_MODEL_LEN = 640


def write_model(folder: Path) -> Path:
    """Two layers that see everything and two with a window of 24, shorter than most prompts."""
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": VOCAB,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": MAX_MODEL_LEN,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "use_sliding_window": True,
        "sliding_window": 24,
        "max_window_layers": 2,
        "eos_token_id": 3,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@dataclass(frozen=True)
class Job:
    """One request of the workload."""

    prompt: list[int]
    params: SamplingParams


def workload() -> list[Job]:
    """Short and long, greedy and sampled, plain and with every parameter; some share prefixes."""
    random = np.random.Generator(np.random.PCG64(5))

    def ids(count: int) -> list[int]:
        return random.integers(4, VOCAB, count).tolist()

    shared = ids(70)
    return [
        Job(ids(5), SamplingParams(max_tokens=60, temperature=0.0, ignore_eos=True, logprobs=3)),
        Job(
            ids(300),
            SamplingParams(max_tokens=20, temperature=0.9, seed=1, ignore_eos=True, logprobs=1),
        ),
        Job(
            [*shared, *ids(3)],
            SamplingParams(max_tokens=40, min_tokens=35, temperature=0.0, logprobs=0),
        ),
        Job(
            [*shared, *ids(20)],
            SamplingParams(max_tokens=30, seed=2, n=3, ignore_eos=True, logprobs=2),
        ),
        Job(
            [*shared, *ids(33)],
            SamplingParams(
                max_tokens=44,
                ignore_eos=True,
                temperature=0.8,
                top_k=40,
                top_p=0.9,
                min_p=0.01,
                typical_p=0.95,
                repetition_penalty=1.3,
                presence_penalty=0.4,
                frequency_penalty=0.3,
                seed=3,
                logprobs=5,
            ),
        ),
        Job(
            ids(40),
            SamplingParams(
                max_tokens=8,
                min_tokens=4,
                seed=4,
                logit_bias={3: 8.0, 9: 2.0},
                bad_words=((11,), (9, 9)),
                allowed_token_ids=tuple(range(3, 60)),
                logprobs=1,
            ),
        ),
        Job(ids(90), SamplingParams(max_tokens=5, seed=6, prompt_logprobs=2, logprobs=0)),
        Job(shared[:64], SamplingParams(max_tokens=11, temperature=0.0, logprobs=1)),
    ]


Answer = list[tuple[object, ...]]


def answer(output: RequestOutput) -> Answer:
    """Everything of an output that must not depend on the machinery."""
    assert output.error is None, output.error
    prompt = [(output.prompt_logprobs,)]
    choices = [
        (choice.index, choice.token_ids, choice.logprobs, choice.finish_reason)
        for choice in output.choices
    ]
    return [*prompt, *choices]


def run(llm: LLM, jobs: list[Job]) -> list[Answer]:
    """All jobs at once; their answers in order."""
    outputs = llm.generate(
        [job.prompt for job in jobs], [job.params for job in jobs], progress=False
    )
    return [answer(output) for output in outputs]
