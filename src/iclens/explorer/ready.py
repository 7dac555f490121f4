"""Prompts that are ready to be looked at: what people use prompts for, small enough to be understood at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from iclens import bundled
from iclens.explorer.ask import Ask
from iclens.lens.prompt import BLANK_LINE, read_document

N_BUNDLED = 8
"""Demonstrations of the bundled example: two of each kind."""


@dataclass(frozen=True)
class Ready:
    """A prompt that the page offers.

    Attributes:
        name: what it is called.
        caption: one sentence: what it is about, and what to look for.
        document: the prompt, as a prompt file holds it.
        answers: its candidate answers.
        response: what is explained in place of an answer, or None.
    """

    name: str
    caption: str
    document: Mapping[str, Any]
    answers: tuple[str, ...] = ()
    response: str | None = None

    @property
    def ask(self) -> Ask:
        """The question."""
        return Ask(read_document(dict(self.document)), self.answers, response=self.response)


def ready(model: str) -> tuple[Ready, ...]:
    """The prompts for a model, the one that the page opens with first.

    Args:
        model: its name; the bundled model knows the words of its own language alone.
    """
    return _bundled() if model == "bundled" else _REAL


def offered(model: str, example: Mapping[str, Any], is_users: bool) -> list[dict[str, Any]]:
    """Write what the page offers, as data.

    Args:
        model: name of the model.
        example: the question that the page opens with.
        is_users: whether that is the user's own prompt, and none of ours.
    """
    prompts = [{"name": one.name, "caption": one.caption, "ask": one.ask.to_document()} for one in ready(model)]
    own = {"name": "Your prompt", "caption": "", "ask": dict(example)}
    return [own, *prompts] if is_users else prompts


def _blocks(*blocks: str) -> dict[str, str]:
    return {"text": BLANK_LINE.join(blocks)}


def _bundled() -> tuple[Ready, ...]:
    blocks = (bundled.path() / "prompt.txt").read_text(encoding="utf-8").strip().split(BLANK_LINE)
    mislabelled = [block.replace("tiger is blick", "tiger is vux") for block in blocks[:N_BUNDLED]]
    meanings = "In this made-up language animals are called blick, fruits vux, tools nef and countries zup."
    return (
        Ready(
            "Animals, fruits, tools, countries",
            f"{meanings} Which demonstrations teach what the last one is?",
            _blocks(*blocks[:N_BUNDLED], blocks[-1]),
            ("vux", "blick", "nef", "zup"),
        ),
        Ready(
            "A wrong label",
            f"{meanings} One animal is labelled as a fruit: find it, and flip its label.",
            _blocks(*mislabelled, blocks[-1]),
            ("vux", "blick", "nef", "zup"),
        ),
        Ready(
            "A response",
            f"{meanings} Which words of the response come from which demonstrations?",
            _blocks(*blocks[:N_BUNDLED], blocks[-1]),
            response="blick . grape is vux . wrench is nef .",
        ),
    )


_REAL = (
    Ready(
        "Reviews: positive or negative",
        "Four labelled reviews, and a new one. Which of them decide, and which speak against the answer?",
        _blocks(
            "A film to fall asleep to.\nSentiment: negative",
            "I laughed from beginning to end.\nSentiment: positive",
            "The plot makes no sense at all.\nSentiment: negative",
            "Warm, clever and beautifully acted.\nSentiment: positive",
            "I want my two hours back.\nSentiment:",
        ),
        ("positive", "negative"),
    ),
    Ready(
        "Capitals",
        "Three countries with their capitals, and a new one. Does the model copy one of them?",
        _blocks("France => Paris", "Japan => Tokyo", "Egypt => Cairo", "Italy =>"),
        ("Rome", "Paris", "Cairo"),
    ),
    Ready(
        "Sums",
        "One of the sums is wrong. Does it hurt?",
        _blocks("2+3=5", "5+2=7", "1+6=8", "3+1=4", "4+4="),
        ("8", "9", "7"),
    ),
    Ready(
        "Messages to JSON",
        "The answers are JSON objects, of which each is a candidate.",
        _blocks(
            'Message: My card was charged twice.\nRoute: {"team": "billing", "urgent": true}',
            'Message: How do I change my photo?\nRoute: {"team": "support", "urgent": false}',
            'Message: You billed me for March again.\nRoute: {"team": "billing", "urgent": true}',
            "Message: Where can I edit my address?\nRoute:",
        ),
        ('{"team": "billing", "urgent": true}', '{"team": "support", "urgent": false}'),
    ),
    Ready(
        "Documents and a response",
        "Four documents, a question and a response. Which words come from which document?",
        {
            "documents": [
                {
                    "id": "tower",
                    "text": "The Eiffel Tower in Paris was built by the company of Gustave Eiffel in 1889.",
                },
                {"id": "bridge", "text": "The Golden Gate Bridge opened in 1937. Its engineer was Joseph Strauss."},
                {"id": "canal", "text": "The Suez Canal opened in 1869. Ferdinand de Lesseps led its construction."},
                {"id": "opera", "text": "The Sydney Opera House was designed by Jørn Utzon and opened in 1973."},
            ],
            "question": "Who led the construction of the Suez Canal?",
        },
        response=" Ferdinand de Lesseps led its construction.",
    ),
)
