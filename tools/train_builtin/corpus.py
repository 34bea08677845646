"""The stories that the built-in model learns from, with their capitals put back.

``tinystories_2M.txt`` is real text with a separator. ``tinystories_4M.txt`` repeats it, adds as
much again, and is lower-cased: a line break between stories, an empty line between paragraphs.
Its second half is taken with capitals guessed from the first file.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SEPARATOR = "<|endoftext|>"
NUM_HELD_OUT = 100
MIN_CHARACTERS, MAX_CHARACTERS = 150, 3000

WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
NAMED = re.compile(r"\b(?:named|called) ([a-z]+)")
ORDINARY = 100
"""A word seen so often in lower case is no name: "called her mom", "called for help"."""
BEGINNING = re.compile(
    r"(?:once|one |there |long ago|today|it was|in an? |an? |the sun"
    r"|[a-z]+ (?:was|is|had|loved|liked)\b"
    r"|[a-z]+ and [a-z]+ (?:were|are|like|liked|love|loved|wanted|want|went|live|lived)\b)"
)
SENTENCE_START = re.compile(r"(?:^|[.!?]\W*\s|\n|(?<=\s)\")\W*$")
"""What stands before a first word: the end of a sentence, or a quotation mark that opens."""
SAID = "said|says|asked|asks|cried|shouted|replied|yelled|exclaimed|answered|called|whispered"
SPEAKER_FOLLOWS = re.compile(rf"(?:[a-z]+ |(?:his|her|the|their) [a-z]+ )?(?:{SAID})\b")
SPEECH_ENDS = re.compile(r"[!?]\" $")
TYPOGRAPHY = str.maketrans(
    {"“": '"', "”": '"', "‘": "'", "’": "'", "–": "-", "—": "-", "…": "..."}  # noqa: RUF001
)


@dataclass(frozen=True)
class Corpus:
    """Stories to learn from, and stories that are never learned from."""

    train: list[str]
    held_out: list[str]


def read_corpus(folder: Path) -> Corpus:
    """Read both files below ``folder``."""
    real = [clean(story) for story in cut(folder / "tinystories_2M.txt", SEPARATOR)]
    real = real[1:-1]  # the first and the last may be parts of stories
    caser = TrueCaser(real)
    seen = {letters(story) for story in real}
    lowered = [clean(story) for story in cut(folder / "tinystories_4M.txt", None)]
    # Some line breaks are inside of a story: what does not begin like one is left out.
    unseen = (story for story in lowered[1:-1] if letters(story) not in seen)
    more = [caser.restore(story) for story in unseen if BEGINNING.match(story)]
    kept = [story for story in dict.fromkeys(real) if is_story(story)]
    held_out = kept[-NUM_HELD_OUT:]
    train = kept[:-NUM_HELD_OUT] + [story for story in dict.fromkeys(more) if is_story(story)]
    return Corpus(train, held_out)


def cut(path: Path, separator: str | None) -> list[str]:
    """The stories of a file; without a separator, single line breaks are between them."""
    text = path.read_text(encoding="utf-8", errors="ignore")
    return text.split(separator) if separator else re.split(r"(?<!\n)\n(?!\n)", text)


def clean(story: str) -> str:
    """One line break between paragraphs, one space between words, plain quotation marks."""
    lines = (" ".join(line.split()) for line in story.translate(TYPOGRAPHY).splitlines())
    return "\n".join(line for line in lines if line)


def letters(story: str) -> str:
    """What two prints of one story have in common."""
    return "".join(character for character in story.lower() if character.isalnum())


def is_story(story: str) -> bool:
    """Whole, in plain characters, and of a usable length."""
    return (
        MIN_CHARACTERS <= len(story) <= MAX_CHARACTERS
        and story.isascii()
        and story[0].isupper()
        and story.rstrip('"')[-1] in ".!?"
    )


def starts_sentence(story: str, match: re.Match[str]) -> bool:
    """Whether a word of a story is the first one of a sentence; ``"Hi!" he said`` goes on."""
    before = story[max(0, match.start() - 4) : match.start()]
    if SPEECH_ENDS.search(before) and SPEAKER_FOLLOWS.match(story, match.start()):
        return False
    return SENTENCE_START.search(before) is not None


class TrueCaser:
    """Guesses capitals: at the start of a sentence, and of words that mostly have one elsewhere."""

    def __init__(self, stories: Iterable[str]) -> None:
        capital: Counter[str] = Counter()
        total: Counter[str] = Counter()
        for story in stories:
            for match in WORD.finditer(story):
                if starts_sentence(story, match):
                    continue
                word = match.group()
                total[word.lower()] += 1
                capital[word.lower()] += word[0].isupper()
        self._ordinary = {
            word for word, seen in total.items() if seen >= ORDINARY and 10 * capital[word] < seen
        }
        self._capitalised = {word for word, seen in total.items() if 2 * capital[word] > seen}

    def restore(self, story: str) -> str:
        """The story with capitals."""
        names = self._capitalised | (set(NAMED.findall(story)) - self._ordinary)

        def cased(match: re.Match[str]) -> str:
            word = match.group()
            if word.split("'")[0] in names or word in names or starts_sentence(story, match):
                return word[0].upper() + word[1:]
            return word

        return WORD.sub(cased, story)


if __name__ == "__main__":
    import sys

    corpus = read_corpus(Path(sys.argv[1]))
    sizes = [sum(map(len, stories)) for stories in (corpus.train, corpus.held_out)]
    print(f"{len(corpus.train)} stories to learn from, {sizes[0]:,} characters")
    print(f"{len(corpus.held_out)} held out, {sizes[1]:,} characters")
    truth = [WORD.findall(story) for story in corpus.held_out]
    caser = TrueCaser(corpus.train[:2000])
    guess = [WORD.findall(caser.restore(story.lower())) for story in corpus.held_out]
    pairs = [pair for a, b in zip(truth, guess, strict=True) for pair in zip(a, b, strict=True)]
    print(f"capitals right on held-out words: {sum(a == b for a, b in pairs) / len(pairs):.2%}")
