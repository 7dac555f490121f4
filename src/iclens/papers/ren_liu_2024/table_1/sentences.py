"""Small generated versions of GLUE's four task types, right by construction.

They stand in where GLUE cannot be downloaded. They are not GLUE: the vocabulary is small, the grammar is a template,
and every label follows from a rule. What a table shows of them is always called generated.

* `cola`: a sentence of a small grammar with agreement, or the same made wrong by word order (`order`), by the number
  of the verb (`agreement`), or by a missing word (`missing`).
* `mrpc`: a sentence said again (synonyms, passive, the place in front), or, with the same rewriting, a sentence with
  the roles exchanged (`roles`), the adjective on the other noun (`adjective`), or one word changed (`word`). Roles and
  adjective leave the bag of words as a paraphrase has it.
* `stsb`: two scenes of five facts (who, of what sort, did what, to whom, where); the grade is how many they share, and
  a shared fact is said in other words half of the time.
* `rte`: `some`, `every` or `no` with a subject, an adjective and a place; the second sentence has a wider or narrower
  noun (`hypernym`), one modifier more or less (`modifier`, `place`), or a negation (`negation`). Which direction is
  entailed depends on the quantifier.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from iclens.errors import UserError
from iclens.papers.ren_liu_2024.table_1.glue import Example, TaskData, task_named
from iclens.papers.ren_liu_2024.table_1.sentence_words import ADJECTIVES, NOUNS, PLACES, VERBS, Noun, Verb, held_out

ENTAILMENT, NO_ENTAILMENT = 0.0, 1.0
"""RTE's classes in GLUE's order."""

PATIENCE = 200
"""Draws for one example; 200 were enough wherever the words give another one."""


@dataclass(frozen=True)
class Scene:
    """Who did what to whom, and where.

    Attributes:
        subject: who.
        adjective: of what sort; the subject's.
        verb: did what.
        object: to whom.
        place: where.
        on_object: whether the adjective is the object's instead.
    """

    subject: Noun
    adjective: str
    verb: Verb
    object: Noun
    place: str
    on_object: bool = False

    def text(
        self, *, passive: bool = False, place_first: bool = False, other_words: frozenset[str] = frozenset()
    ) -> str:
        """The scene as a sentence in the past tense.

        Args:
            passive: say it from the object's side.
            place_first: begin with the place.
            other_words: which of `subject`, `adjective`, `verb`, `object`, `place` are said by their synonym.
        """
        subject = self.subject.synonym if "subject" in other_words else self.subject.singular
        object_ = self.object.synonym if "object" in other_words else self.object.singular
        adjective = ADJECTIVES[self.adjective] if "adjective" in other_words else self.adjective
        verb = self.verb.synonym if "verb" in other_words else self.verb.past
        place = PLACES[self.place] if "place" in other_words else self.place
        first, second = ("the " + subject, f"the {adjective} {object_}")
        if not self.on_object:
            first, second = (f"the {adjective} {subject}", "the " + object_)
        clause = f"{second} was {verb} by {first}" if passive else f"{first} {verb} {second}"
        return f"{place} , {clause}" if place_first else f"{clause} {place}"


FACTS = ("subject", "adjective", "verb", "object", "place")


def generate_sentences(
    name: str, n_train: int, n_validation: int, seed: int = 0, *, patience: int = PATIENCE
) -> TaskData:
    """A generated task; classes and grades are balanced, no two examples are equal.

    Sentences of training and validation are about different pairs of nouns (`held_out`).

    Args:
        name: `cola`, `mrpc`, `stsb` or `rte`.
        n_train: number of training examples.
        n_validation: number of validation examples.
        seed: of all draws.
        patience: draws in a row without a new example after which the words count as exhausted.

    Raises:
        UserError: an unknown task, a number below 2, or more examples than the words give.
    """
    task = task_named(name)
    if name not in _MAKERS:
        raise UserError(f"no sentences are generated for the task {name}, only for {', '.join(_MAKERS)}.")
    parts = {}
    for part, n in (("train", n_train), ("validation", n_validation)):
        if n < 2:
            raise UserError(f"{n} {part} examples: generate at least 2.")
        random = Random(f"{name} {part} {seed}")
        parts[part] = _distinct(name, n, part == "validation", random, patience)
    return TaskData(task, parts["train"], parts["validation"], "generated", True)


def _distinct(name: str, n: int, validation: bool, random: Random, patience: int) -> tuple[Example, ...]:
    make, n_grades = _MAKERS[name]
    grades = [index % n_grades for index in range(n)]
    random.shuffle(grades)
    examples: list[Example] = []
    seen: set[frozenset[str]] = set()
    for grade in grades:
        for _ in range(patience):
            example = make(random, validation, grade)
            key = frozenset(example.texts)
            if key not in seen:
                break
        else:
            raise UserError(f"the words give fewer than {n} different examples of {name}; ask for fewer.")
        seen.add(key)
        examples.append(example)
    return tuple(examples)


def _pair(random: Random, validation: bool) -> tuple[Noun, Noun]:
    while True:
        first, second = random.sample(NOUNS, 2)
        if held_out(first, second) == validation:
            return first, second


def _scene(random: Random, validation: bool) -> Scene:
    subject, object_ = _pair(random, validation)
    return Scene(subject, random.choice(list(ADJECTIVES)), random.choice(VERBS), object_, random.choice(list(PLACES)))


def _noun_phrase(random: Random, noun: Noun, many: bool) -> list[str]:
    adjective = [random.choice(list(ADJECTIVES))] if random.random() < 0.5 else []
    head = [*adjective, noun.plural if many else noun.singular]
    # No sound changes after "a": the grammar is about order and agreement.
    singular = ("this", "every") if head[0][0] in "aeiou" else ("a", "this", "every")
    return [random.choice(("these", "those") if many else singular), *head]


def _acceptability(random: Random, validation: bool, label: int) -> Example:
    subject, object_ = _pair(random, validation)
    plural, object_plural = random.random() < 0.5, random.random() < 0.5
    verb = random.choice(VERBS)
    before, after = _noun_phrase(random, subject, plural), _noun_phrase(random, object_, object_plural)
    # A noun of the other number between subject and verb: agreement is not with the nearest noun.
    if random.random() < 0.5:
        near = random.choice([noun for noun in NOUNS if noun not in (subject, object_)])
        before += [random.choice(("near", "behind", "beside")), "the", near.singular if plural else near.plural]
    right, wrong = (verb.base, verb.third) if plural else (verb.third, verb.base)
    if label:
        return Example((" ".join([*before, right, *after]),), 1.0, "grammatical")
    kind = random.choice(("order", "agreement", "missing"))
    if kind == "agreement":
        words = [*before, wrong, *after]
    elif kind == "order":
        words = _misordered(random, before, right, after, plural)
    else:
        words = _lacking(random, before, right, after, object_)
    return Example((" ".join(words),), 0.0, kind)


def _misordered(random: Random, before: list[str], verb: str, after: list[str], plural: bool) -> list[str]:
    if random.random() < 0.5:
        return [*before, verb, after[-1], *after[:-1]]
    # A plural's verb in front would make an imperative.
    verb_first = not plural and random.random() < 0.5
    return [verb, *before, *after] if verb_first else [*before, *after, verb]


def _lacking(random: Random, before: list[str], verb: str, after: list[str], object_: Noun) -> list[str]:
    missing = random.choice(("verb", "noun", "determiner"))
    # "These" and "this" stand alone as pronouns, so that the noun after them is not missing.
    if missing == "noun" and (len(after) == 3 or after[0] in ("a", "every")):
        return [*before, verb, *after[:-1]]
    if missing == "determiner":
        # Every singular noun of the grammar needs a determiner; a plural one alone would be fine.
        return [*before, verb, *after[1:-1], object_.singular]
    return [*before, *after]


def _rewriting(random: Random) -> dict[str, object]:
    return {
        "passive": random.random() < 0.5,
        "place_first": random.random() < 0.5,
        "other_words": frozenset(fact for fact in FACTS if random.random() < 0.3),
    }


def _changed(random: Random, validation: bool, scene: Scene, fact: str) -> Scene:
    """The scene with another value of one fact, in the same split."""
    while True:
        other = replace(scene, **{fact: getattr(_scene(random, validation), fact)})
        nouns_differ = other.subject != other.object
        if getattr(other, fact) != getattr(scene, fact) and nouns_differ and _in_split(other, validation):
            return other


def _in_split(scene: Scene, validation: bool) -> bool:
    return held_out(scene.subject, scene.object) == validation


def _paraphrase(random: Random, validation: bool, label: int) -> Example:
    first = replace(_scene(random, validation), on_object=random.random() < 0.5)
    kind = "same"
    second = first
    if not label:
        kind = random.choice(("roles", "roles", "adjective", "word"))
        if kind == "roles":
            # The adjective stays with its noun: only who did it changes.
            second = replace(first, subject=first.object, object=first.subject, on_object=not first.on_object)
        elif kind == "adjective":
            second = replace(first, on_object=not first.on_object)
        else:
            second = _changed(random, validation, first, random.choice(FACTS))
    passive, rewriting = random.random() < 0.5, _rewriting(random)
    texts = (first.text(passive=passive), second.text(**rewriting))  # type: ignore[arg-type]
    # Refused for either label, so that the words that two sentences share tell nothing.
    if texts[0] == first.text(**rewriting):  # type: ignore[arg-type]
        return _paraphrase(random, validation, label)
    return Example(texts, float(label), kind)


def _similarity(random: Random, validation: bool, grade: int) -> Example:
    first = _scene(random, validation)
    shared = random.sample(FACTS, grade)
    while True:
        other = _scene(random, validation)
        second = replace(other, **{fact: getattr(first, fact) for fact in shared})
        n_equal = sum(getattr(first, fact) == getattr(second, fact) for fact in FACTS)
        # A noun that changes its role is no shared fact, and would look like one.
        crossed = second.subject == first.object or second.object == first.subject
        if n_equal == grade and not crossed and second.subject != second.object and _in_split(second, validation):
            break
    other_words = frozenset(fact for fact in FACTS if random.random() < 0.5)
    texts = (first.text(), second.text(other_words=other_words))
    if texts[0] == texts[1]:
        return _similarity(random, validation, grade)
    return Example(texts, float(grade), f"{grade} shared")


_NARROWING_KEEPS = {
    ("some", "subject"): False,
    ("some", "rest"): False,
    ("every", "subject"): True,
    ("every", "rest"): False,
    ("no", "subject"): True,
    ("no", "rest"): True,
}
"""Whether a quantified sentence stays true when its subject, or the rest, is narrowed; widening is the converse."""


def _entailment(random: Random, validation: bool, label: int) -> Example:
    entailed = label == ENTAILMENT
    scene = _scene(random, validation)
    kind = random.choice(("hypernym", "modifier", "place", "negation"))
    quantifier = random.choice(("some", "every", "no"))
    adjective = scene.adjective if random.random() < 0.5 else ""
    place = scene.place if random.random() < 0.5 else ""
    noun = scene.subject.singular

    def text(quantifier: str, adjective: str, noun: str, place: str) -> str:
        rest = f"{scene.verb.past} the {scene.object.singular}"
        return " ".join(part for part in (quantifier, adjective, noun, rest, place) if part)

    if kind == "negation":
        quantifier, opposite = random.choice((("some", "no"), ("no", "some")))
        premise = text(quantifier, adjective, noun, place)
        denial = f"it is false that {text(opposite, adjective, noun, place)}"
        contradiction = random.choice((text(opposite, adjective, noun, place), f"it is false that {premise}"))
        return Example((premise, denial if entailed else contradiction), float(label), kind)
    part = "rest" if kind == "place" else "subject"
    narrows = _NARROWING_KEEPS[quantifier, part] == entailed
    if kind == "hypernym":
        narrow, wide = (text(quantifier, adjective, word, place) for word in (noun, scene.subject.kind))
    elif kind == "modifier":
        narrow, wide = (text(quantifier, word, noun, place) for word in (scene.adjective, ""))
    else:
        narrow, wide = (text(quantifier, adjective, noun, word) for word in (scene.place, ""))
    texts = (wide, narrow) if narrows else (narrow, wide)
    return Example(texts, float(label), kind)


_MAKERS: dict[str, tuple[Callable[[Random, bool, int], Example], int]] = {
    "cola": (_acceptability, 2),
    "mrpc": (_paraphrase, 2),
    "stsb": (_similarity, 6),
    "rte": (_entailment, 2),
}

GENERATED = tuple(_MAKERS)
"""The tasks of which sentences are generated."""
