"""Begins made stories as people do who type how one begins, whatever is to happen in it.

"Once upon a time there was a rabbit named Coco." says who the story is about, and not what comes.
A plot has its own first sentences; here they are taken out of a made story, and others that people
type (``plots/introductions.toml``) are what the rest of it goes on with.

    python tools/train_builtin/introductions.py            # some of them
"""

import random
import re
import tomllib
from dataclasses import replace
from typing import NamedTuple

from made_stories import INTRODUCTIONS, Being, MadeStory, told

UNFINISHED_SHARE = 0.3
"""So many beginnings end in the middle of their sentence."""
MIN_WORDS = 3
"""A beginning that is cut off has at least so many words."""
RENAMED_SHARE = 0.7
"""So often somebody has a name from the longer lists of ``plots/introductions.toml``."""
LOOK_SHARE = 0.6
"""So often it is said how somebody looks, or what they are like."""
MORE_SHARE = 0.3
"""So often a second sentence follows."""
ONCE = r"(?:Once upon a time,?|Once|Long ago,?|One day,|There)"


def without_introduction(story: str, hero: Being) -> str | None:
    """A made story without the words that say who it is about; None: it has others.

    "Coco was a rabbit who lived by the sea." leaves "Coco lived by the sea.", and "One day, a
    rabbit named Coco went out." leaves "One day, Coco went out."
    """
    name, kind = re.escape(hero.name), re.escape(hero.kind)
    described = rf"(?:[Aa]n?|[Tt]he) (?:[a-z]+ )??{kind}"
    called = rf"{described},? (?:named|called) {name}"
    there_was = rf"^{ONCE} ?(?:there )?(?:was|lived|once was|was once|once lived) {called}"
    for pattern, left in (
        (rf"^{name} was {described}\. ", ""),
        (rf"^{name} was {described},? (?:who|that) ", f"{hero.name} "),
        (rf"^{name} was {described},? and (?:{hero.he}|{name}) ", f"{hero.name} "),
        (rf"{there_was}\. ", ""),
        (rf"{there_was},? (?:who|that) ", f"{hero.name} "),
        (rf"{there_was},? and (?:{hero.he}|{name}) ", f"{hero.name} "),
        (rf"{called}\b", hero.name),
        (rf"\b{name}, an? (?:[a-z]+ )??{kind},", hero.name),
        (rf"\b{name} the {kind}\b", hero.name),
    ):
        rest, count = re.subn(pattern, left, story, count=1)
        if count:
            break
    else:
        return None
    rest = re.sub(r"^Once(?: upon a time)?,? (.)", lambda match: match[1].upper(), rest)
    first = rest[:160]
    if re.match(rf"{ONCE} ?(?:there )?(?:was|lived|once) ", first):
        return None
    again = rf"\ban? (?:[a-z]+ )?{kind}\b|(?:named|lived|there was) {name}\b|{name},? who"
    if re.search(again, first):
        return None
    return rest if hero.name in first else None


class Introduced(NamedTuple):
    """A story with another beginning."""

    beginning: str
    rest: str
    name: str
    """Of its hero."""


class Introductions:
    """Draws beginnings for made stories, and what is told after them."""

    def __init__(self, chance: random.Random) -> None:
        content = tomllib.loads(INTRODUCTIONS.read_text(encoding="utf-8"))
        self._chance = chance
        self._begins: list[str] = content["begins"]
        self._more: list[str] = content["more"]
        self._after: list[str] = content["after"]
        self._feelings: list[str] = content["feeling"]
        self._lists: dict[str, list[str]] = {
            name: content[name] for name in ("home", "mood", "likes", "weather")
        }
        self._looks: list[str] = content["looks"]
        self.names = {pronoun: names.split() for pronoun, names in content["names"].items()}

    def begin(self, made: MadeStory) -> Introduced | None:
        """Another beginning, and the rest of the story; None: it cannot be begun in this way."""
        if made.hero is None:
            return None
        rest = without_introduction(made.text, made.hero)
        if rest is None:
            return None
        chance = self._chance
        look = chance.choice(self._looks) if chance.random() < LOOK_SHARE else ""
        hero = replace(made.hero, look=look)
        if chance.random() < RENAMED_SHARE:
            free = [name for name in self.names[hero.he] if name not in made.text]
            hero = replace(hero, name=chance.choice(free))
            rest = re.sub(rf"\b{re.escape(made.hero.name)}\b", hero.name, rest)
        sentences = [chance.choice(self._begins)]
        if chance.random() < MORE_SHARE:
            sentences.append(chance.choice(self._more))
        drawn = {name: chance.sample(texts, 2) for name, texts in self._lists.items()}
        beginning = " ".join(
            told(text, {"hero": hero, **{name: two[at] for name, two in drawn.items()}}, chance)
            for at, text in enumerate(sentences)
        )
        if hero.name not in beginning:
            rest = f"{hero.his.capitalize()} name was {hero.name}. {rest}"
        spaces = [match.start() for match in re.finditer(" ", beginning)][MIN_WORDS - 1 :]
        if spaces and chance.random() < UNFINISHED_SHARE:
            cut = chance.choice(spaces)
            return Introduced(beginning[:cut], f"{beginning[cut:].lstrip()} {rest}", hero.name)
        return Introduced(beginning, rest, hero.name)

    def after(self, hero: Being) -> str:
        """A sentence that says little, and may follow any beginning of a story about ``hero``."""
        named = {"hero": hero, "feeling": self._chance.choice(self._feelings)}
        return told(self._chance.choice(self._after), named, self._chance)


if __name__ == "__main__":
    from made_stories import LATER, OPEN, OPEN_WORDS, WORDS, Teller, Words, read_plots

    source = random.Random(0)
    introductions = Introductions(source)
    words = Words((WORDS, OPEN_WORDS))
    for plot in read_plots() + read_plots(LATER) + read_plots(OPEN):
        teller = Teller(source, [plot], words=words)
        found = [introductions.begin(teller.story()) for _ in range(30)]
        begun = [each for each in found if each]
        print(f"# {plot.name}: {len(begun)} of {len(found)}")
        if begun:
            print(" / ".join(begun[0][:2]), "\n")
