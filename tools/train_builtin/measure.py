"""Counts what the card of the built-in model says of it: loops, and requests that it heeds.

python tools/train_builtin/measure.py src/octavo/builtin build/builtin/held_out.txt
"""

import argparse
import re
from pathlib import Path

from corpus import SEPARATOR
from octavo import LLM, SamplingParams
from repetition import CONTINUATION_TOKENS, loop_in

SENTENCE = re.compile(r".+?[.!?](?=\W)")
SENTENCE_ANYWHERE = re.compile(r"[A-Z][^.!?]{14,}[.!?]")
LATER = 3
THINGS = (
    "cat dog bird bear fish frog mouse rabbit duck lion car boat train ball kite doll hat cake"
    " apple tree flower river garden park castle dragon princess king star moon"
).split()
TIMES_ASKED = 4


def beginnings(held_out: Path) -> list[str]:
    """The first sentences of stories."""
    matches = (SENTENCE.match(story.strip()) for story in read(held_out))
    return [match.group() for match in matches if match]


def later_sentences(held_out: Path) -> list[str]:
    """The sentences after LATER others, of the stories that have one: other beginnings."""
    found = (SENTENCE_ANYWHERE.findall(story) for story in read(held_out))
    return [sentences[LATER] for sentences in found if len(sentences) > LATER]


def read(held_out: Path) -> list[str]:
    return held_out.read_text(encoding="utf-8").split(SEPARATOR)


def num_loops(llm: LLM, prompts: list[str], **sampling: float) -> int:
    """How many continuations go round in circles."""
    params = [
        SamplingParams(max_tokens=CONTINUATION_TOKENS, seed=seed, **sampling)
        for seed in range(len(prompts))
    ]
    outputs = llm.generate(prompts, params, progress=False)
    return sum(loop_in(output.choices[0].token_ids) is not None for output in outputs)


def num_named(llm: LLM) -> int:
    """How many stories about a thing have the word for it."""
    asked = [thing for thing in THINGS for _ in range(TIMES_ASKED)]
    outputs = llm.chat(
        [[{"role": "user", "content": f"Tell me a story about a {thing}."}] for thing in asked],
        [
            SamplingParams(max_tokens=300, temperature=0.5, top_p=0.9, seed=seed)
            for seed in range(len(asked))
        ],
        progress=False,
    )
    return sum(
        re.search(rf"\b{thing}s?\b", output.text, re.IGNORECASE) is not None
        for thing, output in zip(asked, outputs, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a model folder")
    parser.add_argument("held_out", type=Path, help="held-out stories, from export.py")
    parser.add_argument("--beginnings", type=Path, help="a file with others, one in each line")
    parser.add_argument("--weights", default="f32")
    arguments = parser.parse_args()
    prompts = beginnings(arguments.held_out)
    with LLM(arguments.folder, weights=arguments.weights, max_num_seqs=64) as llm:
        if arguments.beginnings:
            given = arguments.beginnings.read_text(encoding="utf-8").splitlines()
            print(
                f"given beginnings, greedy: {num_loops(llm, given, temperature=0.0)} of", len(given)
            )
        greedy = num_loops(llm, prompts, temperature=0.0)
        print(f"held-out beginnings, greedy: {greedy} of {len(prompts)} loop")
        later = later_sentences(arguments.held_out)
        greedy = num_loops(llm, later, temperature=0.0)
        print(f"later sentences, greedy: {greedy} of {len(later)} loop")
        sampled = num_loops(llm, prompts, temperature=0.5, top_p=0.9)
        print(f"held-out beginnings, sampled: {sampled} of {len(prompts)} loop")
        print(f"named: {num_named(llm)} of {len(THINGS) * TIMES_ASKED}")


if __name__ == "__main__":
    main()
