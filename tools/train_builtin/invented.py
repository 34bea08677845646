"""Makes names and nouns that nobody has, of syllables: what cannot be known has to be copied."""

import random

ONSETS = (
    "b bl br c ch cl d dr f fl fr g gl gr h j k kl kn l m n p pl pr qu r s sh sk sl sn st t th tr v"
    " w y z"
).split()
VOWELS = "a e i o u a e i o u ai ee oo ou ie".split()
CODAS = "b ck d ff g k l ll m n nd ng nk nt p r rd rk rn s sk st t tch x z".split()
NAMES_END = (*[""] * 3, *"a o y ie en er in us ka ley ton bert bo".split())
NOUNS_END = (*[""] * 3, *"er le et o ling".split())


def invented_name(chance: random.Random) -> str:
    """A name of one to three syllables: "Gorm", "Twinka"."""
    return (_syllables(chance) + chance.choice(NAMES_END)).capitalize()


def invented_noun(chance: random.Random) -> str:
    """Something that there is not: a "snork", a "blimble"."""
    return _syllables(chance) + chance.choice(NOUNS_END)


def _syllables(chance: random.Random) -> str:
    return "".join(
        chance.choice(ONSETS) + chance.choice(VOWELS) + chance.choice(CODAS)
        for _ in range(chance.choice((1, 1, 2)))
    )
