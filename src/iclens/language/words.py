"""Words of twenty categories under labels that are assigned afresh in every prompt.

A prompt lists demonstrations `word is label .` and ends with `word is`. A category's label is drawn uniformly
and independently for every prompt, so that only the demonstrations of the query's category tell the answer:
they are the ground truth of attribution. Since labels are drawn independently, two categories of one prompt may
share a label; without a demonstration of the query's category every predictor is right with probability
1 / `len(LABELS)`.

**Split.** Every word has one label that it never carries in training, neither as a demonstration nor as the
query (`held_out_label`). A held-out prompt asks for exactly such a combination.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from iclens.errors import UserError

Split = Literal["train", "held-out", "any"]

CATEGORIES: dict[str, tuple[str, ...]] = {
    name: tuple(words.split())
    for name, words in {
        "animal": "dog cat horse cow pig sheep goat lion tiger bear wolf fox rabbit mouse deer elephant monkey "
        "camel donkey squirrel",
        "bird": "eagle sparrow owl parrot crow duck goose swan hawk pigeon robin penguin ostrich raven stork gull "
        "peacock turkey falcon heron",
        "fish": "salmon tuna cod trout shark herring carp eel sardine pike haddock mackerel anchovy halibut ray "
        "perch catfish swordfish sole flounder",
        "insect": "ant bee wasp fly mosquito beetle moth butterfly cricket grasshopper ladybug termite flea cockroach "
        "dragonfly locust hornet gnat aphid louse",
        "fruit": "apple banana pear peach plum cherry grape lemon lime mango melon kiwi fig apricot pineapple "
        "strawberry raspberry blueberry papaya date",
        "vegetable": "carrot potato onion cabbage lettuce spinach celery broccoli cucumber pea bean leek turnip radish "
        "beetroot pumpkin garlic asparagus cauliflower kale",
        "tree": "oak pine maple birch willow elm cedar spruce fir poplar beech cypress sequoia hazel alder acacia "
        "chestnut larch yew aspen",
        "flower": "rose tulip daisy lily orchid violet poppy sunflower daffodil iris carnation lavender marigold "
        "jasmine peony lotus dahlia geranium begonia magnolia",
        "colour": "red blue green yellow purple brown black white grey pink crimson beige turquoise scarlet indigo "
        "magenta cyan maroon teal orange",
        "metal": "iron copper gold silver tin lead zinc nickel aluminium steel bronze brass platinum titanium mercury "
        "cobalt chromium tungsten uranium magnesium",
        "tool": "hammer saw drill screwdriver wrench pliers chisel axe shovel rake spade file clamp crowbar trowel "
        "sickle hoe plane mallet pickaxe",
        "clothing": "shirt trousers jacket coat dress skirt hat scarf glove sock shoe boot sweater vest tie belt "
        "blouse jeans pyjamas apron",
        "furniture": "chair table sofa bed desk shelf wardrobe cupboard stool bench cabinet couch armchair bookcase "
        "dresser drawer mattress crib nightstand sideboard",
        "vehicle": "car bus truck bicycle train tram van motorcycle taxi lorry scooter tractor ambulance airplane "
        "helicopter ship boat ferry canoe submarine",
        "instrument": "piano guitar violin flute drum trumpet cello harp clarinet saxophone oboe trombone tuba banjo "
        "accordion organ bassoon viola mandolin harmonica",
        "sport": "football tennis golf hockey boxing rugby cycling swimming skiing baseball basketball volleyball "
        "badminton wrestling rowing fencing archery gymnastics surfing sailing",
        "job": "doctor teacher nurse lawyer farmer baker carpenter plumber engineer pilot butcher tailor painter "
        "dentist electrician journalist judge chef waiter librarian",
        "country": "france germany italy spain poland sweden norway brazil peru chile mexico canada india china japan "
        "egypt kenya greece portugal ireland",
        "body": "hand foot arm leg head nose ear eye mouth knee elbow shoulder neck finger toe ankle wrist chin cheek "
        "thumb",
        "drink": "water milk tea coffee juice beer wine lemonade cocoa cider soda whisky vodka rum gin champagne "
        "brandy espresso smoothie cola",
    }.items()
}
"""Category name to its words; no word is in two categories."""

_LABELS = "dax wug blick fep toma koba lorp mib nef pim quom rast sorv tev vux yad gorp hib jal zup"
LABELS: tuple[str, ...] = tuple(_LABELS.split())
"""The labels: short words without a meaning, so that none suits a category."""

WORDS_PER_CATEGORY = 20

SPECIAL_TOKENS: tuple[str, ...] = ("<pad>", "<unk>", "<s>")

VOCABULARY: tuple[str, ...] = (
    *SPECIAL_TOKENS,
    "is",
    ".",
    *LABELS,
    *(word for words in CATEGORIES.values() for word in words),
)
"""All tokens in the order of their ids: specials, `is`, `.`, labels, then the words category by category."""

CATEGORY_OF: dict[str, str] = {word: name for name, words in CATEGORIES.items() for word in words}


def held_out_label(word: str) -> str:
    """Return the one label that `word` never carries in training.

    Word number w of category number c is kept from label number (w + c) mod `len(LABELS)`, so that every label
    is kept from one word of each category.

    Raises:
        UserError: the word is in no category.
    """
    if word not in CATEGORY_OF:
        raise UserError(f"{word!r} is in none of the {len(CATEGORIES)} categories of iclens.language.words.")
    name = CATEGORY_OF[word]
    return LABELS[(CATEGORIES[name].index(word) + list(CATEGORIES).index(name)) % len(LABELS)]


@dataclass(frozen=True)
class WordPrompt:
    """One few-shot prompt and what is known about it.

    Attributes:
        demonstrations: (word, label) pairs in the order of the prompt.
        query: the word asked for.
        answer: the label of the query's category.
        relevant: indices of the demonstrations of the query's category, ascending. Another category may carry
            the same label; its demonstrations are not relevant.
        categories: the category of every demonstration.
    """

    demonstrations: tuple[tuple[str, str], ...]
    query: str
    answer: str
    relevant: tuple[int, ...]
    categories: tuple[str, ...]

    def text(self, separator: str = " ") -> str:
        r"""Return the prompt as plain text; `separator="\n\n"` puts blank lines between the demonstrations."""
        return separator.join([*(f"{word} is {label} ." for word, label in self.demonstrations), f"{self.query} is"])

    def without(self, removed: tuple[int, ...] | list[int] | set[int]) -> WordPrompt:
        """Return the prompt without some demonstrations.

        Raises:
            UserError: an index is not that of a demonstration.
        """
        count = len(self.demonstrations)
        if any(not 0 <= index < count for index in removed):
            raise UserError(f"cannot remove {sorted(removed)}: the prompt has demonstrations 0 to {count - 1}.")
        kept = [index for index in range(count) if index not in set(removed)]
        return WordPrompt(
            tuple(self.demonstrations[index] for index in kept),
            self.query,
            self.answer,
            tuple(place for place, index in enumerate(kept) if index in self.relevant),
            tuple(self.categories[index] for index in kept),
        )


def _choose(generator: torch.Generator, count: int, size: int) -> list[int]:
    return torch.randperm(count, generator=generator)[:size].tolist()


def sample_words(
    generator: torch.Generator,
    n_demonstrations: int = 12,
    n_relevant: int = 3,
    *,
    n_categories: int = 5,
    split: Split = "held-out",
) -> WordPrompt:
    """Draw one prompt.

    Args:
        generator: the source of randomness; equal states give equal prompts.
        n_demonstrations: how many demonstrations.
        n_relevant: how many of them are of the query's category; 0 leaves the answer to chance.
        n_categories: how many categories in all, the query's among them; the demonstrations that are not
            relevant are drawn from the others, each of which appears if there is room.
        split: `"train"`, no pair of word and label is a held-out one; `"held-out"`, the query and its answer
            are a held-out pair, and the demonstrations are as in `"train"`; `"any"`, all pairs are allowed.

    Raises:
        UserError: the counts do not fit each other or the given words.
    """
    n_other = n_demonstrations - n_relevant
    available = WORDS_PER_CATEGORY - 2
    if not 0 <= n_relevant <= min(n_demonstrations, available):
        raise UserError(
            f"n_relevant={n_relevant} must lie between 0 and min(n_demonstrations, {available})"
            f" = {min(n_demonstrations, available)}."
        )
    if not 2 <= n_categories <= len(CATEGORIES) or n_other > available * (n_categories - 1):
        raise UserError(
            f"n_categories={n_categories} must lie between 2 and {len(CATEGORIES)} and leave room for {n_other}"
            f" demonstrations of other categories, at most {available} of each."
        )
    names = [list(CATEGORIES)[index] for index in _choose(generator, len(CATEGORIES), n_categories)]
    labels = [LABELS[i] for i in torch.randint(len(LABELS), (n_categories,), generator=generator).tolist()]

    words_of_own = [CATEGORIES[names[0]][i] for i in _choose(generator, WORDS_PER_CATEGORY, WORDS_PER_CATEGORY)]
    if split == "held-out":
        query = next(word for word in words_of_own if held_out_label(word) == labels[0])
    else:
        query = next(word for word in words_of_own if split == "any" or held_out_label(word) != labels[0])
    words_of_own.remove(query)

    # Every other category once, then uniformly: slots beyond n_other are dropped, so that with little room each
    # category is as likely as the next.
    slots = [1 + i for i in _choose(generator, n_categories - 1, n_other)]
    while len(slots) < n_other:
        slot = 1 + int(torch.randint(n_categories - 1, (1,), generator=generator))
        if slots.count(slot) < available:
            slots.append(slot)
    slots = [0] * n_relevant + slots

    pools = {0: words_of_own}
    for slot in range(1, n_categories):
        pools[slot] = [CATEGORIES[names[slot]][i] for i in _choose(generator, WORDS_PER_CATEGORY, WORDS_PER_CATEGORY)]
    if split != "any":
        pools = {slot: [word for word in pool if held_out_label(word) != labels[slot]] for slot, pool in pools.items()}
    order = _choose(generator, n_demonstrations, n_demonstrations)
    shuffled = [slots[place] for place in order]
    return WordPrompt(
        demonstrations=tuple((pools[slot].pop(), labels[slot]) for slot in shuffled),
        query=query,
        answer=labels[0],
        relevant=tuple(index for index, slot in enumerate(shuffled) if slot == 0),
        categories=tuple(names[slot] for slot in shuffled),
    )
