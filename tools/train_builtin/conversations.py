"""Turns a story into a request that asks for it, as people ask.

"Tell me a story about a dog who lost his ball." is made from the story itself: who it is about,
from its first sentences; what happens to them, from a sentence with them as its subject; and
things in it that few other stories have.
"""

import random
import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from corpus import WORD
from made_stories import TALK, told

RARE = 700
"""A word is rare that so many stories have, or fewer."""
EARLY = 0.4
"""What a story is about is in this part of it."""
NUM_SALIENT = 12
"""Of a story's rarest nouns, so many are candidates for a request."""

INTRODUCTION = re.compile(
    r"(?:there (?:was|were|lived)|One day,|^|named [A-Z][a-z]+ was) ?"
    r"((?:an?|two|three|some) (?:[a-z]+ ){0,2}?[a-z]+)"
    r"(?= (?:named|called|who|that|was|were|lived|and|went|in|with)\b|[.,])"
)
PRONOUN_SENTENCE = re.compile(
    r"(?:^|[.!?] |\n)(?:He|She|They|[A-Z][a-z]+) "
    r"((?:lost|found|wanted|loved|liked|saw|made|went|had|got|broke|learned|hid|heard|ate|met|helped)"
    r" [a-z' -]{6,48}?)(?=[.!])"
)
DETERMINER = r"\b(?:an?|the|his|her|their|my|your)"
NOUN = re.compile(rf"{DETERMINER} ((?:[a-z]+ )?[a-z]{{3,}})\b")
AFTER_NOUNS = "and|was|is|are|were|to|in|on|that|with|for|had|who"
NOUN_ALONE = re.compile(rf"{DETERMINER} ([a-z]{{3,}})(?=[.,!?]| (?:{AFTER_NOUNS})\b)")
NOUN_SHARE = 0.2
"""A noun is a word that stands between an article and the end of its phrase so often."""
NAME = re.compile(r"\b(?:named|called) ([A-Z][a-z]+)\b")
NOT_SUBJECTS = frozenset(
    "day time lot while moment little sunny long way people thing things set visit wet bit".split()
)

ASKS = (
    "Tell me a story about {}.",
    "Tell me a story about {}",
    "Tell me a story about {}!",
    "Write a story about {}.",
    "Write a short story about {}.",
    "Can you tell me a story about {}?",
    "Please tell me a story about {}.",
    "I want a story about {}.",
    "A story about {}, please.",
    "Make up a story about {}.",
    "Tell me about {}.",
    "I would like to hear about {}.",
    "Do you know a story about {}?",
    "How about {}?",
    "Something about {}, please.",
    "Story about {}",
)
ASKS_AGAIN = (
    "Now tell me a story about {}.",
    "Another one, about {}.",
    "Tell me another story about {}.",
    "And now a story about {}, please.",
)
ASKS_FOR_ANY = (
    "Tell me a story.",
    "Tell me a story",
    "Tell me another story.",
    "Can you tell me a story?",
    "Write a short story for children.",
    "I would like to hear a story.",
    "A bedtime story, please.",
)
ASKS_FOR_MORE = (
    "Another one, please.",
    "Another one!",
    "One more, please.",
    "One more story!",
    "Tell me another story.",
    "Tell me another one.",
    "And another?",
    "More, please.",
    "Again!",
)
"""After an earlier one; what is wanted is left open."""
GO_ON = (
    "Continue this story: {}",
    "Go on with this story: {}",
    "Please go on: {}",
    "Finish this story: {}",
    "{} What happens next?",
)

ANY_SHARE = 0.06
"""So many requests leave open what the story is to be about."""
PLURAL_SHARE = 0.15
"""Of somebody or something that a story is about, so often people ask for many: "dragons"."""
HASTY_SHARE = 0.15
"""So much of what is said has neither capitals nor a mark at the end."""
TOPIC_SHARE = 0.5
"""Of what is said without asking, so much is a topic; the rest are beginnings."""
UNFINISHED_SHARE = 0.4
"""So many beginnings end in the middle of a sentence."""
GO_ON_SHARE = 0.15
"""With so many beginnings people say what they want."""
LEADING_ARTICLE = re.compile("^(?:an?|the) ")
ONE = re.compile("an? ([a-z]+[a-rt-z])")
"""One word with its article."""
ODD_PLURALS = {
    "mouse": "mice",
    "goose": "geese",
    "wolf": "wolves",
    "elf": "elves",
    "leaf": "leaves",
    "scarf": "scarves",
}
SAME_PLURALS = frozenset(("fish", "sheep", "deer"))
SENTENCE_END = re.compile(r'[.!?]"?(?=\s+[A-Z"])')


class Exchange(NamedTuple):
    """Something that is said, and its answer."""

    request: str | None
    """None: a story that nobody asked for."""
    answer: str
    about: str = ""
    """What the answer should have something of."""


def request_for(topic: str | None, chance: random.Random, *, again: bool = False) -> str:
    """A request for a story about something; ``again``: after an earlier one."""
    if topic is None or chance.random() < ANY_SHARE:
        return chance.choice(ASKS_FOR_MORE if again else ASKS_FOR_ANY)
    if chance.random() < PLURAL_SHARE:
        topic = plural(topic)
    return chance.choice(ASKS_AGAIN if again else ASKS).format(topic)


def plural(topic: str) -> str:
    """ "dragons" for "a dragon"; topics of more words stay as they are."""
    one = ONE.fullmatch(topic)
    if one is None:
        return topic
    noun = one[1]
    if noun in ODD_PLURALS or noun in SAME_PLURALS:
        return ODD_PLURALS.get(noun, noun)
    if noun.endswith("man"):
        return noun[:-2] + "en"
    if re.search("[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("ch", "sh", "x")) else "s")


def plainly(topic: str, story: str, chance: random.Random, after: str = "") -> Exchange:
    """What people type who do not ask, and what is told then.

    It is a topic alone ("a dog who lost his ball", "dragon", "dragons"), and the story; or how a
    story begins, and the rest of it (``after``: see ``gone_on_with``).
    """
    if chance.random() >= TOPIC_SHARE:
        return gone_on_with(story, chance, after)
    words = plural(topic) if chance.random() < PLURAL_SHARE else topic
    if chance.random() < 0.5:
        words = LEADING_ARTICLE.sub("", words)
    if chance.random() < 0.4:
        words = words[0].upper() + words[1:]
    return Exchange(words + chance.choice(("", "", "", ".", "!", " please")), story, topic)


def gone_on_with(story: str, chance: random.Random, after: str = "") -> Exchange:
    """How a story begins, and the rest of it; never cut where somebody speaks.

    ``after``: what else is said after whole sentences of it.
    """
    ends = [match.end() for match in SENTENCE_END.finditer(story)]
    ends = [end for end in ends if story.count('"', 0, end) % 2 == 0][:3]
    if not ends:
        return Exchange(None, story)
    if chance.random() < UNFINISHED_SHARE:
        spaces = [match.start() for match in re.finditer('(?<!") ', story[: ends[-1]])][3:]
        ends = [end for end in spaces if story.count('"', 0, end) % 2 == 0] or ends
    cut = chance.choice(ends)
    beginning = story[:cut]
    if after and beginning[-1] in ".!?":
        beginning += f" {after}"
    return begun(beginning, story[cut:].lstrip(), chance)


def begun(beginning: str, rest: str, chance: random.Random) -> Exchange:
    """How a story begins, perhaps with the wish for the rest of it, and the rest."""
    request = beginning
    if chance.random() < GO_ON_SHARE:
        request = chance.choice(GO_ON).format(beginning)
    return Exchange(request, rest, beginning)


def hastily(said: Exchange, chance: random.Random) -> Exchange:
    """As people type in a hurry, in some cases."""
    if said.request is None or chance.random() >= HASTY_SHARE:
        return said
    return said._replace(request=said.request.lower().rstrip(".!?"))


class Talk:
    """What people say to a teller of stories that asks for none, and what it answers.

    ``plots/talk.toml`` has both, with choices as in the plots. What has ``times`` is said so many
    times as often as the rest.
    """

    def __init__(self, chance: random.Random, files: Iterable[Path] = (TALK,)) -> None:
        self._chance = chance
        self._kinds = [
            kind
            for path in files
            for kind in tomllib.loads(path.read_text(encoding="utf-8"))["talk"]
            for _ in range(kind.get("times", 1))
        ]

    def exchange(self) -> Exchange:
        """One thing said, and its answer."""
        kind = self._chance.choice(self._kinds)
        picked = {name: self._chance.choice(texts) for name, texts in kind.get("pick", {}).items()}
        said, answer = (
            told(self._chance.choice(kind[part]), picked, self._chance)
            for part in ("asks", "answers")
        )
        return Exchange(said, answer)


class Requests:
    """Makes requests for stories; knows which words are rare."""

    def __init__(self, stories: Iterable[str]) -> None:
        self._seen: Counter[str] = Counter()
        words: Counter[str] = Counter()
        alone: Counter[str] = Counter()
        for story in stories:
            found = WORD.findall(story.lower())
            self._seen.update(set(found))
            words.update(found)
            alone.update(NOUN_ALONE.findall(story.lower()))
        self._nouns = {word for word, times in alone.items() if times >= NOUN_SHARE * words[word]}

    def request(self, story: str, chance: random.Random, *, again: bool = False) -> Exchange:
        """One request that the story answers; ``again``: after an earlier one."""
        topic = self._topic(story, chance)
        return Exchange(request_for(topic, chance, again=again), story, topic or "")

    def is_rare(self, word: str) -> bool:
        """Whether no more than RARE of the stories have it."""
        return self._seen[word.lower()] <= RARE

    def _topic(self, story: str, chance: random.Random) -> str | None:
        subject = self._subject(story)
        things = self.things(story)
        name = NAME.search(story)
        kinds = []
        if subject:
            kinds += [subject] * 2
            doings = PRONOUN_SENTENCE.findall(story)
            if doings:
                doing = min(doings, key=len) if chance.random() < 0.5 else chance.choice(doings)
                kinds += [f"{subject} who {doing}"] * 4
            if name:
                kinds += [f"{subject} named {name[1]}"]
            if things:
                kinds += [f"{subject} and {chance.choice(things)}"] * 2
        if things:
            kinds += [chance.choice(things)] * 2
            if name:
                kinds += [f"{name[1]} and {chance.choice(things)}"]
        return chance.choice(kinds) if kinds else None

    @staticmethod
    def _subject(story: str) -> str | None:
        for match in INTRODUCTION.finditer(story[:200]):
            if match[1].split()[-1] not in NOT_SUBJECTS:
                return match[1]
        return None

    def main_things(self, story: str) -> list[str]:
        """The rare nouns that it has early, and not only once; as ``things``."""
        early = story[: int(EARLY * len(story))].rpartition(" ")[0]  # whole words
        return [
            thing
            for thing in self.things(early)
            if len(re.findall(rf"\b{thing.split()[1]}s?\b", story)) > 1
        ]

    def things(self, story: str) -> list[str]:
        """The rarest nouns of a story, each with an article: "a needle", "an egg"."""
        found = {}
        for match in NOUN.finditer(story):
            # "a needle near the bridge": the second word is no noun, and the first one is.
            noun = next((word for word in match[1].split()[::-1] if word in self._nouns), "")
            if noun not in NOT_SUBJECTS and self._seen[noun] >= 4 and self.is_rare(noun):
                found[noun] = self._seen[noun] / (1 + story.count(noun))
        rarest = sorted(found, key=found.__getitem__)[: NUM_SALIENT // 2]
        return [
            ("an " if noun[0] in "aeiou" else "a ") + noun for noun in rarest if noun[-1] != "s"
        ]
