"""What a prompt does to the states of queries: the stream and its branches, layer by layer, from one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from iclens.absorption.normed import branch_of
from iclens.absorption.sites import Site
from iclens.errors import UserError
from iclens.lens.model.loading import LensModel
from iclens.lens.model.placed import wide
from iclens.lens.read.prefix_tree import PrefixTree, read_tree
from iclens.lens.read.tolerance import tolerance_of

Hook = Callable[[nn.Module, Any, Any], Any]


@dataclass(frozen=True, eq=False)
class States:
    """The states of some tokens after the prompt, a layer each.

    Attributes:
        entering: the stream before a layer, x.
        attention: the attention branch, after W_O and a norm that ends it, without the family's factor m.
        leaving: the stream after the layer.
        outputs: what the changed maps gave, by their names.
    """

    entering: tuple[Float[Tensor, "n width"], ...]
    attention: tuple[Float[Tensor, "n width"], ...]
    leaving: tuple[Float[Tensor, "n width"], ...]
    outputs: dict[str, Float[Tensor, "n _"]]


@torch.no_grad()
def states_of(lens_model: LensModel, tree: PrefixTree, nodes: Int[Tensor, " n"], sites: Sequence[Site]) -> States:
    """Run a tree of texts once and keep the states of some of its nodes.

    Raises:
        UserError: a changed map of the MLP is not its branch: stream and branches do not sum to what leaves the layer.
    """
    n_layers = lens_model.n_layers
    entering, attention, leaving = ([torch.empty(0)] * n_layers for _ in range(3))
    outputs: dict[str, Tensor] = {}
    hooks: list[tuple[nn.Module, Hook]] = []
    before: list[tuple[nn.Module, Hook]] = []

    def keep(store: Any, key: Any) -> Hook:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            store[key] = rows(first(output), nodes)

        return hook

    for number, layer in enumerate(lens_model.anatomy.layers):
        assert layer.output is not None

        def enter(module: nn.Module, args: Any, kwargs: Any, number: int = number) -> None:
            entering[number] = rows(stream(args, kwargs), nodes)

        before.append((layer.module, enter))
        branch = layer.norm_after_attention or layer.output
        hooks += [(branch, keep(attention, number)), (layer.module, keep(leaving, number))]
    hooks += [(site.module, keep(outputs, site.name)) for site in sites]
    with hooked(hooks, before):
        run_tree(lens_model, tree)
    found = States(tuple(entering), tuple(attention), tuple(leaving), outputs)
    _check_sums(lens_model, found, sites)
    return found


def run_tree(lens_model: LensModel, tree: PrefixTree) -> None:
    """One pass over a tree, for the hooks that see it."""
    read_tree(lens_model, tree, torch.tensor([[len(path) - 1] for path in tree.paths]))


@contextmanager
def hooked(after: Iterable[tuple[nn.Module, Hook]], before: Iterable[tuple[nn.Module, Hook]] = ()) -> Iterator[None]:
    """Call functions inside the block when modules have run, or, with args and kwargs, before they run."""
    with ExitStack() as stack:
        for module, hook in after:
            stack.callback(module.register_forward_hook(hook).remove)
        for module, hook in before:
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def stream(args: Any, kwargs: Any) -> Tensor:
    """The stream that a layer is called with."""
    return args[0] if args else kwargs["hidden_states"]


def rows(x: Float[Tensor, "*one n_nodes width"], nodes: Int[Tensor, " n"]) -> Float[Tensor, "n width"]:
    """Some nodes of a tree, in single precision at least; some families flatten the leading axis away."""
    return wide(x.flatten(0, -2)[nodes.to(x.device)])


def first(output: Any) -> Tensor:
    """The tensor of a module's output, which some return in a tuple."""
    return output[0] if isinstance(output, tuple) else output


def _check_sums(lens_model: LensModel, states: States, sites: Sequence[Site]) -> None:
    m = lens_model.family.branch_scale
    for site in sites:
        if site.target != "mlp-out":
            continue
        own, whole = states.entering[site.layer], states.leaving[site.layer]
        branch = branch_of(lens_model.anatomy.layers[site.layer], site, states.outputs[site.name])
        summed = own + m * (states.attention[site.layer] + branch)
        off = float((summed - whole).abs().max()) / float(whole.abs().max())
        if not off <= 100 * tolerance_of(lens_model.dtype):
            raise UserError(
                f"layer {site.layer} of {lens_model.name} adds more to the stream than its attention and {site.name} "
                f"(off by {off:.1e}): give the target 'attention' alone."
            )
