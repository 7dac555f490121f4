"""How demonstrations and a query become a prompt: by a template for pairs, or by the model's own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from iclens.lens.prompt import Prompt
from iclens.lens.prompt.chat import check_template
from iclens.lens.prompt.sources import BLANK_LINE, Span
from iclens.lens.prompt.template import DEFAULT_TEMPLATE, parse_template
from iclens.selection.examples import Example

_REPLY = "QXZ0N"
"""Stands for a reply where what follows it is looked for."""


@dataclass(frozen=True)
class ChatTemplate:
    """What writes pairs as turns of a user and an assistant, see `Prompt.from_chat`.

    Attributes:
        template_args: further arguments of the template.
        system_in_user: put the instruction before the first question, for templates without a system message.
        tokenizer: whose template it is; None until a model is there.
    """

    template_args: Mapping[str, Any] | None = None
    system_in_user: bool = False
    tokenizer: Any = None


@dataclass(frozen=True)
class Writing:
    """How demonstrations and a query become a prompt, see `Prompt.from_examples`.

    Attributes:
        template: how a pair is written.
        instruction: a text before the demonstrations; of a chat its system message.
        separator: what stands between them.
        chat: writes the pairs as turns, in place of template and separator; None without it.
    """

    template: str = DEFAULT_TEMPLATE
    instruction: str | None = None
    separator: str = BLANK_LINE
    chat: ChatTemplate | None = None

    def of(self, tokenizer: Any) -> Writing:
        """Return the same with the chat template of a tokenizer, where one is needed.

        Raises:
            UserError: it has none, or does not know an argument.
        """
        if self.chat is None:
            return self
        check_template(tokenizer, self.chat.template_args or {})
        return replace(self, chat=replace(self.chat, tokenizer=tokenizer))

    def prompt(self, shots: Sequence[Example], query: str) -> Prompt:
        """Write a prompt."""
        if self.chat is None:
            pairs = [(one.input, str(one.output)) for one in shots]
            return Prompt.from_examples(pairs, query, self.template, self.instruction, self.separator)
        written = Prompt.from_chat(
            self.messages(shots, query),
            self.chat.tokenizer,
            template_args=self.chat.template_args,
            system_in_user=self.chat.system_in_user,
        )
        # What ends a reply comes and goes with it, as what a template for pairs writes after an output.
        own = self._after_reply.rstrip()
        spans = written.demonstrations
        if all(written.text.startswith(own, one.end) for one in spans):
            spans = tuple(Span(one.start, one.end + len(own)) for one in spans)
        return replace(written, demonstrations=spans)

    def messages(self, shots: Sequence[Example], query: str) -> list[dict[str, str]]:
        """The messages of a chat: the instruction, a question and a reply for each demonstration, and the query."""
        said = [("system", self.instruction)] if self.instruction is not None and self.instruction.strip() else []
        said += [turn for one in shots for turn in (("user", one.input), ("assistant", str(one.output)))]
        return [{"role": role, "content": content} for role, content in [*said, ("user", query)]]

    @property
    def stop(self) -> str:
        """What ends an output: what is written after it, or else the separator, or a line end."""
        if self.chat is None:
            after = parse_template(self.template)[1]("").strip()
            return after or self.separator.strip() or "\n"
        return self._after_reply.strip() or "\n"

    @cached_property
    def _after_reply(self) -> str:
        """What the chat template writes after a reply."""
        assert self.chat is not None
        turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _REPLY}]
        options = {"tokenize": False, "add_generation_prompt": False, **(self.chat.template_args or {})}
        try:
            return self.chat.tokenizer.apply_chat_template(turn, **options).rpartition(_REPLY)[2]
        except Exception:  # templates raise what they like
            return ""
