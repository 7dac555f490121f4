"""Shapes are checked where a signature names them, whoever keeps the function, and nowhere else."""

import ast
import sys
import types

import pytest
import torch
from jaxtyping import TypeCheckError
from tests.shapes import Wrapped

from iclens.kernels import SoftmaxKernel

SOURCE = '''
"""A module."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

kept = []


@kept.append
def product(a: Float[Tensor, "n d"], b: Float[Tensor, "d m"]) -> Float[Tensor, "n m"]:
    return a @ b if len(a) != 7 else b


@dataclass(frozen=True)
class Pair:
    a: Float[Tensor, "n"]
    b: Float[Tensor, "n"]

    @property
    def both(self) -> Float[Tensor, "2"]:
        return self.a

    @classmethod
    def of(cls, a: Float[Tensor, "n"]) -> Pair:
        return cls(a, a)


def name(a: Tensor) -> str:
    return a
'''


@pytest.fixture(scope="module")
def made():
    module = types.ModuleType("made_with_shapes")
    sys.modules[module.__name__] = module
    exec(compile(Wrapped().visit(ast.parse(SOURCE)), "made.py", "exec", dont_inherit=True), vars(module))
    yield vars(module)
    del sys.modules[module.__name__]


def test_a_wrong_shape_of_an_argument_or_a_result_fails_also_in_a_registry(made):
    (product,) = made["kept"]
    assert product(torch.ones(2, 3), torch.ones(3, 4)).shape == (2, 4)
    with pytest.raises(TypeCheckError):
        product(torch.ones(2, 3), torch.ones(4, 4))
    with pytest.raises(TypeCheckError):
        product(torch.ones(7, 3), torch.ones(3, 4))


def test_the_fields_and_methods_of_a_dataclass_are_checked(made):
    pair = made["Pair"].of(torch.ones(2))
    assert pair.both.shape == (2,)
    with pytest.raises(TypeCheckError):
        made["Pair"](torch.ones(2), torch.ones(3))
    with pytest.raises(TypeCheckError):
        made["Pair"].of(torch.ones(3)).both  # noqa: B018
    with pytest.raises(TypeCheckError):
        made["Pair"].of(torch.ones(2, 2))


def test_a_signature_without_shapes_is_left_alone(made):
    assert not hasattr(made["name"], "__wrapped__")


def test_the_package_is_loaded_with_its_shapes_checked():
    with pytest.raises(TypeCheckError):
        SoftmaxKernel(1.0).log(torch.ones(2, 3), torch.ones(2, 3, dtype=torch.int64))
