"""The words of the generated sentences: nouns, verbs, adjectives and places, with their other forms and synonyms."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32


@dataclass(frozen=True)
class Noun:
    """A countable noun for someone who acts.

    Attributes:
        singular: e.g. `"dog"`.
        plural: e.g. `"dogs"`.
        kind: a wider word for it, e.g. `"animal"`.
        synonym: another word for it, or itself.
    """

    singular: str
    plural: str
    kind: str
    synonym: str


@dataclass(frozen=True)
class Verb:
    """A transitive verb.

    Attributes:
        base: the plural's present tense, e.g. `"chase"`.
        third: the singular's, e.g. `"chases"`.
        past: the past tense and the participle, e.g. `"chased"`.
        synonym: the past tense of another word for it, or itself.
    """

    base: str
    third: str
    past: str
    synonym: str


def _nouns(kind: str, text: str) -> tuple[Noun, ...]:
    nouns = []
    for entry in text.split():
        forms, _, synonym = entry.partition("=")
        singular, _, plural = forms.partition("/")
        nouns.append(Noun(singular, plural or singular + "s", kind, synonym or singular))
    return tuple(nouns)


def _verbs(text: str) -> tuple[Verb, ...]:
    verbs = []
    for entry in text.split():
        forms, _, synonym = entry.partition("=")
        base, third, past = forms.split("/")
        verbs.append(Verb(base, third, past, synonym or past))
    return tuple(verbs)


NOUNS: tuple[Noun, ...] = (
    *_nouns("animal", "dog=hound cat horse pig=hog goat lion bear wolf/wolves rabbit=bunny monkey donkey elephant"),
    *_nouns("bird", "eagle owl parrot duck swan crow"),
    *_nouns(
        "person",
        "doctor=physician teacher lawyer=attorney farmer pilot=aviator boy=lad author=writer thief/thieves=robber "
        "baker soldier king=monarch judge nurse student=pupil",
    ),
)

VERBS: tuple[Verb, ...] = _verbs(
    "chase/chases/chased=pursued follow/follows/followed=trailed help/helps/helped=assisted "
    "push/pushes/pushed=shoved visit/visits/visited watch/watches/watched=observed scare/scares/scared=frightened "
    "admire/admires/admired find/finds/found=located catch/catches/caught=captured trust/trusts/trusted "
    "hear/hears/heard call/calls/called=summoned fool/fools/fooled=tricked"
)

ADJECTIVES: dict[str, str] = {
    "big": "large",
    "small": "little",
    "quick": "fast",
    "angry": "furious",
    "happy": "glad",
    "brave": "courageous",
    "clever": "smart",
    "calm": "peaceful",
    "odd": "strange",
    "tired": "weary",
}
"""Adjective to synonym."""

PLACES: dict[str, str] = {
    "in the garden": "in the yard",
    "in the forest": "in the woods",
    "near the road": "near the street",
    "behind the shop": "behind the store",
    "at the harbor": "at the port",
    "on the hill": "on the slope",
    "beside the lake": "beside the water",
    "in the village": "in the hamlet",
}
"""Place to another way of saying it."""

VALIDATION_SHARE = 5
"""One pair of nouns in this number is kept for validation."""


def held_out(first: Noun, second: Noun) -> bool:
    """Return whether sentences about these two, in either role, belong to the validation split.

    The answer depends on the words alone and not on a seed, so that training and validation sentences of any two
    seeds are about different pairs.
    """
    names = sorted((first.singular, second.singular))
    return crc32("+".join(names).encode()) % VALIDATION_SHARE == 0
