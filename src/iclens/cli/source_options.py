"""Options that say what is scored: documents and their question, pieces of a text, messages."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from iclens.cli.prompt_options import prompt_options, unescaped
from iclens.errors import UserError

if TYPE_CHECKING:
    from iclens.lens.prompt import Prompt

_OF_DOCUMENTS = ("question", "as_chat")
_ONE_PROMPT = ("documents", "question")


@dataclass(frozen=True)
class Sources:
    r"""What to score, if not demonstrations.

    Attributes:
        documents: a .jsonl file of {"id", "text"} lines, or a .json list of these, to be used with --question. The
            --template is then a file, or a text, with {text}, {question} and perhaps {id}.
        question: the question to answer from the documents.
        as_chat: write the documents and the question as the user's message of a chat.
        split: score the paragraphs, lines or sentences of a text, of each document or message; or the messages of a
            chat of any turns, with thoughts and tools.
        score_instruction: score the instruction too.
        within: also show what the sentences, lines or paragraphs of each source do.
        budget: how many of the strongest sources, and of their parts, to delete really, at most a pass each.
    """

    documents: Path | None = None
    question: str | None = None
    as_chat: bool = False
    split: Literal["paragraphs", "lines", "sentences", "messages"] | None = None
    score_instruction: bool = False
    within: Literal["paragraphs", "lines", "sentences"] | None = None
    budget: int = 0

    def check(self, batch: Path | None) -> None:
        """Refuse options that do not go together, before any work.

        Raises:
            UserError: the first of them.
        """
        for option in fields(self):
            given, flag = getattr(self, option.name) != option.default, f"--{option.name.replace('_', '-')}"
            if given and option.name in _ONE_PROMPT and batch is not None:
                raise UserError(f"{flag} is for one prompt, not for the prompts of --batch {batch}.")
            if given and option.name == "question" and self.documents is None:
                raise UserError("--question needs --documents, the file of documents that it is about.")
        if self.documents is not None and self.question is None:
            raise UserError("--documents needs --question, what the model is to answer from them.")
        if self.budget < 0:
            raise UserError(f"--budget {self.budget}: give a number of passes, 0 or more.")

    def read(self, command: Any, tokenizer: Any, path: Path | None = None) -> Prompt:
        """Read the prompt of a file, or of the documents where there is none.

        Raises:
            UserError: a file that cannot be read, or that makes no prompt.
        """
        from iclens.lens.prompt import read_document, read_prompt
        from iclens.lens.prompt.document_files import read_documents

        options = prompt_options(command)
        if path is not None:
            return read_prompt(path, tokenizer, **vars(options))
        assert self.documents is not None
        if command.query is not None:
            raise UserError("--query is for demonstrations: give --question with --documents.")
        document = {"documents": read_documents(self.documents), "question": self.question}
        template = _template(command.template)
        document |= {} if template is None else {"template": template}
        return read_document(document, tokenizer, replace(options, template=None))


def _template(given: str | None) -> str | None:
    """Return a template as text: what was given, or what the file of that name holds."""
    from iclens.lens.prompt.documents import contents

    if given is None or "{" in given:
        return unescaped(given)
    try:
        return contents(Path(given)).decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n")
    except UnicodeDecodeError:
        raise UserError(f"{given} is not UTF-8: save the template as UTF-8.") from None
