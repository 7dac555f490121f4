"""LangChain: a selector of examples, which gives the chosen ones, in their order, for every input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from iclens.errors import UserError
from iclens.selection.choosing import select
from iclens.selection.selection import Selection

try:
    from langchain_core.example_selectors import BaseExampleSelector
except ImportError:
    BaseExampleSelector = None

_Base: Any = BaseExampleSelector or object


class LangChainSelector(_Base):
    """A `BaseExampleSelector` of LangChain.

    Made from a choice it gives that; made by `choosing` it chooses when it is first asked, and again after
    `add_example`.

    >>> selector = LangChainSelector(iclens.select(model, pool, dev, k=8))    # doctest: +SKIP
    >>> prompt = FewShotPromptTemplate(example_selector=selector, ...)    # doctest: +SKIP

    Args:
        found: the choice.
        input_key: under which name an example has its input.
        output_key: and its output.

    Raises:
        UserError: langchain-core is not installed.
    """

    def __init__(self, found: Selection, input_key: str = "input", output_key: str = "output") -> None:
        shots = [found.demonstrations[i] for i in found.indices]
        self._begin([{input_key: one.input, output_key: one.output} for one in shots], input_key, output_key)
        self._found: Selection | None = found
        self._asked: tuple[Any, Any, dict[str, Any]] | None = None

    @classmethod
    def choosing(
        cls,
        model: Any,
        examples: Iterable[Mapping[str, Any]],
        dev: Any,
        *,
        input_key: str = "input",
        output_key: str = "output",
        **options: Any,
    ) -> LangChainSelector:
        """Make a selector that chooses from examples.

        Args:
            model: what `select` takes.
            examples: dictionaries; what they hold beside input and output is given back too.
            dev: the development examples, as `select` takes them, or dictionaries like the examples.
            input_key: under which name an example has its input.
            output_key: and its output.
            options: those of `select`, such as `k`.
        """
        made = cls.__new__(cls)
        made._begin([dict(one) for one in examples], input_key, output_key)
        made._found, made._asked = None, (model, dev, options)
        return made

    def _begin(self, examples: list[dict[str, Any]], input_key: str, output_key: str) -> None:
        if BaseExampleSelector is None:
            raise UserError("LangChain is not installed: pip install 'iclens[langchain]'.")
        self.examples, self.input_key, self.output_key = examples, input_key, output_key

    @property
    def selection(self) -> Selection:
        """The choice, which is made when it is first needed.

        Raises:
            UserError: as `select`.
        """
        if self._found is None:
            assert self._asked is not None
            model, dev, options = self._asked
            dev = dev if isinstance(dev, str) or not isinstance(dev, Iterable) else [self._pair(one) for one in dev]
            self._found = select(model, [self._pair(one) for one in self.examples], dev, **options)
        return self._found

    def select_examples(self, input_variables: dict[str, str]) -> list[dict[str, Any]]:
        """Give the chosen examples in the order of the prompt; they are the same for every input."""
        if self._asked is None:
            return [dict(one) for one in self.examples]
        return [dict(self.examples[i]) for i in self.selection.indices]

    def add_example(self, example: dict[str, str]) -> None:
        """Add an example to the pool; the next call of `select_examples` chooses again.

        Raises:
            UserError: the selector holds a choice that was made already; the example has no input or output.
        """
        if self._asked is None:
            raise UserError(
                "this selector holds a choice that was made already: make it by LangChainSelector.choosing(model, "
                "examples, dev, ...), which chooses anew."
            )
        self._pair(example)
        self.examples.append(dict(example))
        self._found = None

    def _pair(self, example: Any) -> Any:
        if not isinstance(example, Mapping):
            return example
        lacking = [key for key in (self.input_key, self.output_key) if key not in example]
        if lacking:
            raise UserError(f"the example {dict(example)!r} has no {lacking[0]!r}: say input_key and output_key.")
        return example[self.input_key], example[self.output_key]
