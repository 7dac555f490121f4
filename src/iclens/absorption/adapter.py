"""Changes of low rank to a model's matrices: how they run, and how they are written as a PEFT adapter (LoRA)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from iclens.absorption.low_rank import LowRank
from iclens.absorption.sites import Site
from iclens.absorption.states import hooked
from iclens.errors import UserError
from iclens.lens.model.loading import LensModel
from iclens.work.whole_files import make_folder, write_atomically

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True, eq=False)
class Adapter:
    """W becomes W + B A, for some matrices of a model.

    Attributes:
        rank: of every change.
        maps: the change of each matrix, by the module's name in the model.
        transposed: whether the modules hold their matrix transposed, as those of GPT-2 do (`Conv1D`).
        base: the model's name.
    """

    rank: int
    maps: Mapping[str, LowRank]
    transposed: bool
    base: str

    @classmethod
    def of(cls, lens_model: LensModel, rank: int, sites: Sequence[Site], maps: Mapping[str, LowRank]) -> Adapter:
        """Bind changes to the model that they belong to, in the precision of its weights, single at least."""
        dtype = torch.promote_types(lens_model.dtype, torch.float32)
        rounded = {name: LowRank(one.a.to(dtype), one.b.to(dtype)) for name, one in maps.items()}
        return cls(rank, rounded, any(not isinstance(site.module, nn.Linear) for site in sites), lens_model.name)

    @property
    def n_parameters(self) -> int:
        """Count the numbers in all A and B: what the adapter stores."""
        return sum(one.a.numel() + one.b.numel() for one in self.maps.values())

    @contextmanager
    def applied(self, lens_model: LensModel) -> Iterator[None]:
        """The model runs with the changes inside the block: every changed map gives W x + B A x."""

        def changed(one: LowRank) -> Any:
            return lambda module, inputs, output: output + one(inputs[0])

        modules = dict(lens_model.model.named_modules())
        with hooked([(modules[name], changed(one)) for name, one in self.maps.items()]):
            yield

    def save(self, folder: str | Path) -> None:
        """Write `adapter_config.json` and `adapter_model.safetensors`, as peft and transformers read them.

        Raises:
            UserError: the folder cannot be made or written.
        """
        from safetensors.torch import save

        folder = Path(folder)
        check_folder(folder)
        make_folder(folder)
        write_atomically(folder / WEIGHTS, save(self.tensors(), {"format": "pt"}))
        write_atomically(folder / CONFIG, json.dumps(self.config(), indent=1) + "\n")

    def tensors(self) -> dict[str, Tensor]:
        """The file's tensors by their names."""
        found = {}
        for name, one in self.maps.items():
            found[f"base_model.model.{name}.lora_A.weight"] = one.a.contiguous()
            found[f"base_model.model.{name}.lora_B.weight"] = one.b.contiguous()
        return found

    def config(self) -> dict[str, Any]:
        """The configuration: LoRA of this rank with factor 1, on these modules by their whole names."""
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base,
            "r": self.rank,
            "lora_alpha": self.rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": self.transposed,
            "target_modules": sorted(self.maps),
            "inference_mode": True,
        }


def check_folder(folder: Path) -> None:
    """Refuse a folder that is something else than a new one, an empty one or an older adapter.

    Raises:
        UserError: it is a file, or holds other files.
    """
    if folder.is_file():
        raise UserError(f"{folder} is a file: give a folder for the adapter.")
    others = [path.name for path in folder.iterdir() if path.name not in (CONFIG, WEIGHTS)] if folder.is_dir() else []
    if others:
        raise UserError(f"the folder {folder} holds other files ({min(others)}): give a new folder for the adapter.")
