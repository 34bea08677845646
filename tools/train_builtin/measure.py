"""Counts what the card of the built-in model says of it: loops, and requests that it heeds.

python tools/train_builtin/measure.py src/octavo/builtin build/builtin/held_out.txt
"""

import argparse
import re
from collections.abc import Sequence
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
EVENTS = {
    "a dog who lost his ball": (r"ball", r"lost|gone|find|look"),
    "a girl who lost her kite": (r"kite", r"lost|gone|find|look"),
    "a cat who lost a drum": (r"drum", r"lost|gone|find|look"),
    "a fox who did not give up": (r"fox", r"again|give up"),
    "a boy who wants to build a snowman": (r"snowman", r"snow"),
    "a rabbit who is afraid of the dark": (r"dark|night", r"afraid|scared"),
    "two friends who fight over a toy": (r"mine|toy", r"sorry|share"),
}
"""What is asked for, and patterns that a story of it has."""
TIMES_TOLD = 12
BEGINNINGS = {
    "Once upon a time there was a little rabbit named Coco.": r"Coco|rabbit",
    "One day, Tom found a shiny coin in the garden.": r"coin",
    "There was a robot who lived in a lighthouse.": r"robot",
    "It was a cold winter night and the little bear could not sleep.": r"bear",
    "Lily had a new red bike. She wanted to ride it to school.": r"bike",
    "A fox and a hen met on the road.": r"fox|hen",
    "Ben and his dog Rex went to the beach.": r"Rex|dog",
    "The old king had lost his crown.": r"crown|king",
    "Mia was afraid of the dark.": r"dark|afraid",
    "Once there was a tiny dragon who could not fly.": r"dragon",
}
"""What is typed, and what comes up again if the story goes on with it."""

NEW_NAMES = "Oskar Twink Gorm Tilda Brumm Ferdi Anouk Bolo Mirko Solveig".split()
NEW_THINGS = (
    "barometer chandelier gargoyle kazoo mandolin moat spatula sundial trombone zeppelin catapult"
    " typewriter"
).split()
NEW_DOINGS = {
    "ride an ostrich": r"(?:rid|rode)\w* an ostrich",
    "peel potatoes": r"peel\w* potatoes",
    "climb a lamp post": r"climb\w* a lamp post",
    "speak French": r"(?:speak|spoke)\w* French",
    "milk a goat": r"milk\w* a goat",
    "tame a lion": r"tam\w+ a lion",
    "win a medal": r"(?:win|won)\w* a medal",
    "cross a desert": r"cross\w* a desert",
}
"""None of these is in the lists from which made stories are filled in: they have to be copied."""
NAMED = (
    "Once upon a time there was a little owl named {}.",
    "Tell me a story about a cat named {}.",
)

TALK = (
    *("hello", "hi", "Hello!", "good morning", "thank you", "thanks", "bye", "who are you"),
    *("thx", "thank you that was nice", "good night", "see you", "what is 2 + 2", "ok"),
)
"""What is said that asks for no story."""
STORY_TOKENS = 500
"""No made story has more."""
TALK_CHARACTERS = 160
"""No answer to it is longer, and every story is."""


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


def answers(llm: LLM, requests: list[str]) -> list[str]:
    """Sampled as suggested, each request with a seed of its own."""
    outputs = llm.chat(
        [[{"role": "user", "content": request}] for request in requests],
        [
            SamplingParams(max_tokens=STORY_TOKENS, temperature=0.5, top_p=0.9, seed=seed)
            for seed in range(len(requests))
        ],
        progress=False,
    )
    return [output.text for output in outputs]


def said(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.IGNORECASE) is not None


def num_named(llm: LLM, request: str, things: Sequence[str] = THINGS) -> int:
    """How many stories about somebody or something have the word for it."""
    asked = [thing for thing in things for _ in range(TIMES_ASKED)]
    told = answers(llm, [request.format(thing) for thing in asked])
    return sum(said(rf"\b{thing}s?\b", text) for thing, text in zip(asked, told, strict=True))


def num_told(llm: LLM) -> list[int]:
    """How many stories of each event tell of it."""
    told = answers(llm, [f"Tell me a story about {e}." for e in EVENTS for _ in range(TIMES_TOLD)])
    return [
        sum(
            all(said(pattern, text) for pattern in patterns)
            for text in told[place * TIMES_TOLD : (place + 1) * TIMES_TOLD]
        )
        for place, patterns in enumerate(EVENTS.values())
    ]


def num_gone_on_with(llm: LLM) -> int:
    """After how many beginnings a word of them comes up again."""
    typed = [beginning for beginning in BEGINNINGS for _ in range(TIMES_ASKED)]
    told = answers(llm, typed)
    return sum(said(BEGINNINGS[one], text) for one, text in zip(typed, told, strict=True))


def num_new_done(llm: LLM) -> int:
    """How many stories of somebody who wants to do something that no list has say what it is."""
    asked = [doing for doing in NEW_DOINGS for _ in range(TIMES_ASKED)]
    told = answers(llm, [f"Tell me a story about a bear who wants to {doing}." for doing in asked])
    return sum(said(NEW_DOINGS[doing], text) for doing, text in zip(asked, told, strict=True))


def num_talked(llm: LLM) -> int:
    """How often what asks for no story is answered with none."""
    told = answers(llm, [each for each in TALK for _ in range(TIMES_ASKED)])
    return sum(len(text) <= TALK_CHARACTERS for text in told)


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
        asked = len(THINGS) * TIMES_ASKED
        print(f"named: {num_named(llm, 'Tell me a story about a {}.')} of {asked}")
        print(f"named, typed alone: {num_named(llm, '{}')} of {asked}")
        asked = len(NEW_THINGS) * TIMES_ASKED
        named = num_named(llm, "Tell me a story about a {}.", NEW_THINGS)
        print(f"words of no list, named: {named} of {asked}")
        print(f"typed alone: {num_named(llm, '{}', NEW_THINGS)} of {asked}")
        asked = len(NEW_NAMES) * TIMES_ASKED
        kept = [num_named(llm, request, NEW_NAMES) for request in NAMED]
        print(f"names of no list, kept after a beginning and in a story: {kept} of {asked} each")
        print(f"doings of no list: {num_new_done(llm)} of {len(NEW_DOINGS) * TIMES_ASKED}")
        print(f"told of, of {TIMES_TOLD} each: {dict(zip(EVENTS, num_told(llm), strict=True))}")
        print(f"gone on with: {num_gone_on_with(llm)} of {len(BEGINNINGS) * TIMES_ASKED}")
        print(f"talk answered with no story: {num_talked(llm)} of {len(TALK) * TIMES_ASKED}")


if __name__ == "__main__":
    main()
