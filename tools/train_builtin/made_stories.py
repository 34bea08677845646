"""Makes short stories from plots, so that the model sees how one thing follows from another.

A file in ``plots/`` or one of its folders has some plots, each a story with choices. ``[red|blue]``
stands for one of its alternatives, which may hold others; ``{hero}`` and the like for somebody or
something of the plot's cast, drawn from ``plots/words.toml`` and the same through the whole story.
Plots in ``plots/open/`` have room for words of long lists (``plots/open/words.toml``), and for
words and names that nobody has: they can only be copied from what was asked.

    python tools/train_builtin/made_stories.py            # a few of each plot
"""

import random
import re
import string
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PLOTS = Path(__file__).parent / "plots"
LATER, OPEN = PLOTS / "later", PLOTS / "open"
"""The plots of the later stages of the training, and those with open words, of the last one."""
WORDS, OPEN_WORDS = PLOTS / "words.toml", OPEN / "words.toml"
TOPICS = OPEN / "topics.toml"
"""The plots of ``OPEN`` about anything at all."""
TALK, LATER_TALK, OPEN_TALK = PLOTS / "talk.toml", LATER / "talk.toml", OPEN / "talk.toml"
INTRODUCTIONS = PLOTS / "introductions.toml"
NO_PLOTS = (WORDS, OPEN_WORDS, TALK, LATER_TALK, OPEN_TALK, INTRODUCTIONS)

ANYBODY_SHARE = 0.35
"""So often a role is given to anybody: who is asked for is to be found in the story, also where
the plot was not made for them."""
ASKED_SHARE = 0.6
"""So often a topic is what the plot says that it is about; else somebody or something in it."""
CHOICE = re.compile(r"\[([^\[\]]*)\]")
ARTICLE = re.compile(r"\b([Aa]) (?=[aeiouAEIOU])(?!uni|use|one\b)")
PRONOUNS = {
    "he": ("he", "him", "his", "himself"),
    "she": ("she", "her", "her", "herself"),
}


def phrase(*words: str) -> str:
    """The words that there are, one after the other."""
    return " ".join(filter(None, words))


@dataclass(frozen=True, slots=True)
class Being:
    """Somebody in a story: ``{hero}`` is the name, ``{hero.kind}`` what they are."""

    name: str
    kind: str
    look: str
    he: str
    him: str
    his: str
    himself: str

    @property
    def a(self) -> str:
        """With an article, and perhaps an adjective: "a little dog"."""
        return phrase("a", self.look, self.kind)

    @property
    def the(self) -> str:
        return f"the {self.kind}"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Thing:
    """Something in a story: ``{ball}`` is the noun, ``{ball.a}`` "a red ball"."""

    noun: str
    look: str
    article: str = "a"
    """Nothing for what cannot be counted: snow, Christmas."""
    is_any: bool = False
    """Whether a plot that has it makes sense with any other noun."""

    @property
    def a(self) -> str:
        return phrase(self.article, self.look, self.noun)

    @property
    def the(self) -> str:
        return phrase("the" if self.article else "", self.look, self.noun)

    def __str__(self) -> str:
        return self.noun


@dataclass(frozen=True, slots=True)
class Place:
    """Where a story happens: ``{where}`` is the noun, ``{where.at}`` "in the garden"."""

    noun: str
    preposition: str

    @property
    def the(self) -> str:
        return f"the {self.noun}"

    @property
    def at(self) -> str:
        return f"{self.preposition} the {self.noun}"

    def __str__(self) -> str:
        return self.noun


@dataclass(frozen=True, slots=True)
class Doing:
    """What somebody does: ``{doing}`` "ride a bike", ``{doing.past}``, ``{doing.ing}``."""

    base: str
    past: str
    ing: str

    def __str__(self) -> str:
        return self.base


Member = Being | Thing | Place | Doing
"""What a cast is made of."""


class Words:
    """The people, things, places and doings that there are, by group, of one file or more."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._names: dict[str, list[str]] = {}
        self._always: dict[str, str] = {}
        self._beings: dict[str, dict[str, Any]] = {}
        self._things: dict[str, dict[str, Any]] = {}
        self._places: dict[str, dict[str, Any]] = {}
        self._doings: dict[str, dict[str, Any]] = {}
        for path in files:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
            for pronoun, names in content["names"].items():
                self._names.setdefault(pronoun, []).extend(names.split())
            for pronoun, kinds in content["always"].items():
                self._always.update(dict.fromkeys(kinds, pronoun))
            self._beings.update(content["beings"])
            self._things.update(content["things"])
            self._places.update(content["places"])
            self._doings.update(content.get("doings", {}))

    def draw(self, groups: str, taken: Iterable[Member], chance: random.Random) -> Member:
        """Somebody or something of one of the groups, unlike all in ``taken``."""
        taken = list(taken)
        group = chance.choice(groups.split())
        if group in self._beings:
            return self._being(self._beings[group], taken, chance)
        nouns = {str(member) for member in taken if not isinstance(member, Being)}
        if group in self._places:
            return self._place(self._places[group], nouns, chance)
        if group in self._doings:
            return self._doing(self._doings[group], nouns, chance)
        if group not in self._things:
            raise KeyError(f"{group}: no such group in {WORDS.name}")
        return self._thing(self._things[group], nouns, chance)

    def instead_of(self, groups: str) -> str:
        """All groups of people and animals, where one of these is; else the groups themselves.

        What a plot says of a rabbit can mostly be said of a king as well.
        """
        return " ".join(self._beings) if set(groups.split()) & set(self._beings) else groups

    def _thing(
        self, table: Mapping[str, Any], taken: Collection[str], chance: random.Random
    ) -> Thing:
        free = [noun for noun in table["nouns"] if noun not in taken]
        noun = chance.choice(free)
        return Thing(
            noun, look_of(table, chance), table.get("article", "a"), table.get("any", False)
        )

    @staticmethod
    def _place(table: Mapping[str, Any], taken: Collection[str], chance: random.Random) -> Place:
        """Of a group with one preposition, or of one with places such as "on the moon"."""
        if "preposition" in table:
            free = [noun for noun in table["nouns"] if noun not in taken]
            return Place(chance.choice(free), table["preposition"])
        preposition, _, noun = chance.choice(table["nouns"]).partition(" the ")
        return Place(noun, preposition)

    def _doing(
        self, table: Mapping[str, Any], taken: Collection[str], chance: random.Random
    ) -> Doing:
        """One of the forms, with any other thing for ``{a}`` and an object for ``{o}``."""
        things = {
            "a": self._thing(self._things["anything"], taken, chance).a,
            "o": self._thing(self._things["object"], taken, chance).a,
        }
        forms = chance.choice(table["forms"]).format(**things)
        return Doing(*forms.split(" | "))

    def _being(
        self, table: Mapping[str, Any], taken: Sequence[Member], chance: random.Random
    ) -> Being:
        others = [member for member in taken if isinstance(member, Being)]
        taken_kinds = {other.kind for other in others}
        kinds = [kind for kind in table["kinds"] if kind not in taken_kinds]
        kind = chance.choice(kinds or table["kinds"])
        pronoun = self._always.get(kind) or chance.choice(("he", "she"))
        names = self._names["animal" if table.get("animal") else pronoun]
        if table.get("animal") and chance.random() < 0.5:
            names = self._names[pronoun]
        free = [name for name in names if name not in {other.name for other in others}]
        return Being(chance.choice(free), kind, look_of(table, chance), *PRONOUNS[pronoun])


def look_of(table: Mapping[str, Any], chance: random.Random) -> str:
    """An adjective, in two of three cases."""
    looks = table.get("looks", [])
    return chance.choice(looks) if looks and chance.random() < 0.67 else ""


@dataclass(frozen=True, slots=True)
class Plot:
    """A story with choices.

    ``cast`` has groups of words for each role, ``pick`` texts (or tables of texts) of which one is
    chosen for the whole story, ``asks`` what the story is about.
    """

    name: str
    cast: dict[str, str]
    pick: dict[str, list[Any]]
    asks: list[str]
    story: str


@dataclass(frozen=True, slots=True)
class MadeStory:
    """A story, and what one would call it: "a dog who lost his ball"."""

    text: str
    topic: str
    hero: Being | None = None
    """The first of its cast, where that is somebody."""
    words: tuple[str, ...] = ()
    """Names, and nouns, of its cast in whose place any other could stand."""


class Capitals(string.Formatter):
    """``{hero.he!c}`` is "He"."""

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        if conversion == "c":
            text = str(value)
            return text[:1].upper() + text[1:]
        return super().convert_field(value, conversion)


FORMATTER = Capitals()


def read_plots(source: Path = PLOTS) -> list[Plot]:
    """Every plot of a file, or of a folder's own files in the order of their names."""
    plots = []
    for path in [source] if source.is_file() else sorted(source.glob("*.toml")):
        if path in NO_PLOTS:
            continue
        for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
            plots.append(
                Plot(
                    name=f"{path.stem}.{name}",
                    cast=table["cast"],
                    pick=table.get("pick", {}),
                    asks=table["asks"],
                    story=table["story"],
                )
            )
    return plots


class Teller:
    """Tells made stories, each from a plot drawn with equal chances.

    ``asked_share`` of the topics are what the plot says that it is about; the others are somebody
    or something in it.
    """

    def __init__(
        self,
        chance: random.Random,
        plots: Sequence[Plot] | None = None,
        *,
        asked_share: float = ASKED_SHARE,
        words: Words | None = None,
    ) -> None:
        self._chance = chance
        self._asked_share = asked_share
        self._plots = read_plots() if plots is None else list(plots)
        self._words = Words((WORDS,)) if words is None else words

    def story(self, plot: Plot | None = None) -> MadeStory:
        """A story of a plot; of any one, if none is given."""
        plot = plot or self._chance.choice(self._plots)
        cast: dict[str, Member] = {}
        for role, groups in plot.cast.items():
            if self._chance.random() < ANYBODY_SHARE:
                groups = self._words.instead_of(groups)
            cast[role] = self._words.draw(groups, cast.values(), self._chance)
        picked = {role: self._chance.choice(texts) for role, texts in plot.pick.items()}
        named: dict[str, Any] = {
            **cast,
            **{
                role: SimpleNamespace(**value) if isinstance(value, dict) else value
                for role, value in picked.items()
            },
        }
        text = told(plot.story, named, self._chance)
        first = next(iter(cast.values()))
        hero = first if isinstance(first, Being) else None
        words = tuple(
            str(member)
            for member in cast.values()
            if isinstance(member, Being) or (isinstance(member, Thing) and member.is_any)
        )
        return MadeStory(text, self._topic(plot, cast, named), hero, words)

    def _topic(self, plot: Plot, cast: Mapping[str, Member], named: Mapping[str, Any]) -> str:
        """As the plot says it, or just who or what is in it: the first of its cast, a thing, a
        place, what is done, or the first and another one."""
        first, *others = cast.values()
        short = [_nameless(first)] * 3
        short += [_nameless(member) for member in others if isinstance(member, Thing)] * 2
        short += [_nameless(member) for member in others if isinstance(member, Place | Doing)] * 2
        others = [member for member in others if not isinstance(member, Doing)]
        short += [f"{_nameless(first)} and {_nameless(member)}" for member in others] * 2
        if isinstance(first, Being):
            short += [f"{_nameless(first)} named {first}", f"{first} the {first.kind}"]
            short += [
                f"{first} and {member if isinstance(member, Being) else _nameless(member)}"
                for member in others
            ]
        asked = plot.asks if self._chance.random() < self._asked_share else short
        return told(self._chance.choice(asked), named, self._chance)


def _nameless(member: Member) -> str:
    """A dog, a ball, the park."""
    match member:
        case Being():
            return f"a {member.kind}"
        case Thing():
            return phrase(member.article, member.noun)
        case Place():
            return member.the
        case Doing():
            return member.ing


def told(text: str, named: Mapping[str, Any], chance: random.Random) -> str:
    """A text with its choices made and its names filled in; one line for each paragraph."""
    while match := CHOICE.search(text):
        text = text[: match.start()] + chance.choice(match[1].split("|")) + text[match.end() :]
    text = FORMATTER.vformat(text, (), named)
    text = ARTICLE.sub(r"\1n ", text)
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return "\n".join(paragraph for paragraph in paragraphs if paragraph)


if __name__ == "__main__":
    import sys

    teller = Teller(random.Random(0), words=Words((WORDS, OPEN_WORDS)))
    for plot in read_plots() + read_plots(LATER) + read_plots(OPEN):
        if len(sys.argv) > 1 and not plot.name.startswith(tuple(sys.argv[1:])):
            continue
        for _ in range(3):
            made = teller.story(plot)
            print(f"# {plot.name}: {made.topic}\n{made.text}\n")
