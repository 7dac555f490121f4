"""DSPy: a teleprompter, which puts the chosen examples into a program as its demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from iclens.errors import UserError
from iclens.selection.choosing import select
from iclens.selection.examples import Example
from iclens.selection.selection import Selection
from iclens.selection.splitting import split_off

try:
    from dspy.teleprompt import Teleprompter
except ImportError:
    Teleprompter = None

_Base: Any = Teleprompter or object


class DSPyTeleprompter(_Base):
    """A `Teleprompter` of DSPy: an open model chooses the demonstrations of a program's predictors.

    A predictor's examples are written as lines `Field: value`, with the fields and the instructions of its signature,
    and the model reads these: not what an adapter of DSPy writes for the program's own language model. A predictor is
    set when every example has all of its inputs and one of its outputs; others, such as those of inner steps that no
    example shows, stay without demonstrations.

    >>> better = DSPyTeleprompter("smollm2", k=8).compile(program, trainset=train, valset=dev)    # doctest: +SKIP

    Args:
        model: what `select` takes.
        output_field: the output that is judged, where examples have several.
        options: those of `select`, such as `k`.

    Attributes:
        selections: the choice for each predictor that was set, by its name.
        left_out: the names of the others.

    Raises:
        UserError: DSPy is not installed.
    """

    def __init__(self, model: Any, *, output_field: str | None = None, **options: Any) -> None:
        if Teleprompter is None:
            raise UserError("DSPy is not installed: pip install 'iclens[dspy]'.")
        super().__init__()
        self.model, self.output_field, self.options = model, output_field, options
        self.selections: dict[str, Selection] = {}
        self.left_out: tuple[str, ...] = ()

    def compile(
        self,
        student: Any,
        *,
        trainset: Sequence[Any],
        teacher: Any = None,
        valset: Sequence[Any] | None = None,
        **_: Any,
    ) -> Any:
        """Give a copy of a program whose predictors have the chosen examples of `trainset` as demonstrations.

        Args:
            student: the program; it stays as it is.
            trainset: the pool.
            teacher: there is none here; it is refused.
            valset: the development examples; without them half of `trainset` takes their place, and is not chosen from.

        Raises:
            UserError: no predictor can be set; a teacher; as `select`.
        """
        if teacher is not None:
            raise UserError("a teacher is given, but demonstrations are chosen here and not made: leave it out.")
        compiled = student.reset_copy()
        self.selections, skipped = {}, []
        for name, predictor in compiled.named_predictors():
            output = self._output_of(predictor.signature, trainset)
            if output is None:
                skipped.append(name)
                continue
            found, pool = self._choose(predictor.signature, output, list(trainset), valset)
            predictor.demos = [pool[i] for i in found.indices]
            self.selections[name] = found
        self.left_out = tuple(skipped)
        if not self.selections:
            raise UserError(
                f"no predictor ({', '.join(skipped) or 'the program has none'}) has all its inputs and one output in "
                "every example of the trainset."
            )
        compiled._compiled = True
        return compiled

    def _output_of(self, signature: Any, examples: Sequence[Any]) -> str | None:
        """Return the output field that the examples show; None where they do not show what the predictor does."""
        shown = set.intersection(*(set(one.keys()) for one in examples)) if examples else set()
        known = [name for name in signature.output_fields if name in shown]
        if not set(signature.input_fields) <= shown or not known:
            return None
        if self.output_field in known:
            return self.output_field
        if len(known) > 1:
            raise UserError(f"the examples have the outputs {', '.join(known)}: say output_field, which is judged.")
        return known[0]

    def _choose(
        self, signature: Any, output: str, train: Sequence[Any], dev: Sequence[Any] | None
    ) -> tuple[Selection, Sequence[Any]]:
        def pair(one: Any) -> Example:
            lines = [f"{_label(signature, name)} {one[name]}" for name in signature.input_fields]
            return Example("\n".join(lines), str(one[output]))

        if dev is None:
            kept, aside = split_off([pair(one) for one in train], seed=self.options.get("seed", 0))
            train, dev = [train[i] for i in sorted(kept)], [train[i] for i in aside]
        label = _label(signature, output).replace("{", "{{").replace("}", "}}")
        written = {"template": f"{{input}}\n{label} {{output}}", "instruction": signature.instructions or None}
        asked = {**written, **self.options}
        return select(self.model, [pair(one) for one in train], [pair(one) for one in dev], **asked), train


def _label(signature: Any, name: str) -> str:
    """Return what stands before a field's value, e.g. `Question:`."""
    told = (signature.fields[name].json_schema_extra or {}).get("prefix")
    return str(told or f"{name.replace('_', ' ').capitalize()}:")
