"""A network for two hops with weights written by hand: nothing is learnt, so nothing is in doubt about how it answers.

Every token has a random code. Three layers of attention do the work:

1. each token receives the codes of the token before it (P1) and of the one before that (P2);
2. the query `a is` attends to the token whose P2 is `a` and whose P1 is `is`, the `b` of `a is b`, and takes that (H);
3. it attends to the token whose P2 is H and whose P1 is `is`, the `c` of `b is c`, and takes its code to the output.

So `b is c` delivers the answer, and `a is b` only decides where the last layer attends.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_CODE = 96
_POSITIONS = 128
_SHARPNESS = 40.0
"""Score of a match, in nats: two random codes of this length agree by less than half of it."""

_SPARE = 8  # so that the width divides by the two heads


def two_hop_network(tokenizer: Any, seed: int = 0) -> Any:
    """Return a `GPT2LMHeadModel` of 3 layers and 2 heads that answers `a is` by two hops over `b is c` and `a is b`.

    Args:
        tokenizer: of the words; one token a word.
        seed: of the codes.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    n_vocabulary = len(tokenizer)
    names = ("token", "position", "P1", "P2", "H", "output")
    sizes = [_POSITIONS if name == "position" else _CODE for name in names]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    block = {name: slice(start, start + size) for name, start, size in zip(names, starts, sizes, strict=True)}
    width = sum(sizes) + _SPARE
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=n_vocabulary,
            n_positions=_POSITIONS,
            n_embd=width,
            n_layer=3,
            n_head=2,
            n_inner=1,
            activation_function="relu",
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=0,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (n_vocabulary, _CODE), generator=generator) * 2 - 1
    codes = signs.to(torch.float32) / _CODE**0.5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.zero_()
            if "ln_" in name and name.endswith("weight"):
                # A layer norm then leaves a stream of this squared norm nearly as it is.
                squared = {"h.0.ln_1": 2, "h.1.ln_1": 4, "h.2.ln_1": 5}.get(".".join(name.split(".")[-4:-1]), 6)
                parameter.fill_((squared / width) ** 0.5)
        model.transformer.wte.weight[:, block["token"]] = codes
        model.transformer.wpe.weight[:, block["position"]] = torch.eye(_POSITIONS)
        model.lm_head.weight[:, block["output"]] = 20 * codes
        layers = [_Attention(layer.attn, width) for layer in model.transformer.h]
        for head, (back, target) in enumerate(((2, "P2"), (1, "P1"))):
            shift = torch.eye(_POSITIONS).roll(-back, 1)
            shift[:back] = 0
            layers[0].match(head, block["position"], shift, block["position"])
            layers[0].carry(head, block["token"], block[target])
        link = codes[tokenizer.convert_tokens_to_ids("is")]
        for layer, asked, target in ((1, "P1", "H"), (2, "H", "output")):
            layers[layer].match(0, block[asked], torch.eye(_CODE), block["P2"])
            layers[layer].prefer(0, block["P1"], link)
            layers[layer].carry(0, block["token"], block[target])
    return model


class _Attention:
    """Writes what one layer's heads ask for, look at and carry."""

    def __init__(self, module: Any, width: int) -> None:
        self.module, self.width, self.head_width = module, width, width // 2

    def match(self, head: int, asked: slice, change: Tensor, seen: slice) -> None:
        """Score tokens by ⟨asked · change, seen⟩."""
        first, size = head * self.head_width, change.shape[1]
        weight = self.module.c_attn.weight
        weight[asked, first : first + size] = change * _SHARPNESS * self.head_width**0.5
        weight[seen, self.width + first : self.width + first + size] = torch.eye(size)

    def prefer(self, head: int, seen: slice, code: Tensor) -> None:
        """Add ⟨seen, code⟩ to every score, whatever is asked."""
        last = (head + 1) * self.head_width - 1
        self.module.c_attn.bias[last] = _SHARPNESS * self.head_width**0.5
        self.module.c_attn.weight[seen, self.width + last] = code

    def carry(self, head: int, source: slice, target: slice) -> None:
        """Copy `source` of the tokens attended to into `target`."""
        first, size = head * self.head_width, source.stop - source.start
        self.module.c_attn.weight[source, 2 * self.width + first : 2 * self.width + first + size] = torch.eye(size)
        self.module.c_proj.weight[first : first + size, target] = torch.eye(size)
