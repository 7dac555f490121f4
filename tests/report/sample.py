"""An explanation with made-up numbers, as large and as odd as a test wants it."""

from __future__ import annotations

import random
import re
from dataclasses import replace

from iclens.lens.explanation import Explanation
from iclens.lens.facts import (
    Agreement,
    Candidate,
    Completeness,
    Cost,
    Faithfulness,
    Grounding,
    KnockOut,
    ModelFacts,
    NextToken,
    OtherPart,
    PairEffects,
    PatchEffects,
    Piece,
    Residual,
    SourceEffect,
    SourceUpdate,
    Taken,
    Token,
)

WORDS = re.findall(
    r"\w+",
    "the old harbour lay quiet while grey gulls turned over slate roofs and nobody spoke of weather "
    "until morning brought ships from distant unfamiliar places",
)


def make(
    n_demonstrations: int = 6, n_tokens: int = 90, n_layers: int = 4, n_heads: int = 4, seed: int = 0
) -> Explanation:
    """A plausible explanation of about `n_tokens` tokens."""
    draw = random.Random(seed)
    labels = ["calm", "storm", "trade"]
    each = max(4, (n_tokens - 6) // (n_demonstrations + 1) - 2)
    tokens: list[Token] = [Token("<s>", None, "first", 0.4, 3.1)]
    effects = []
    for i in range(n_demonstrations):
        strength = draw.gauss(0.2, 1.0)
        words = ["Text:", *(" " + draw.choice(WORDS) for _ in range(each - 3)), "\nMood:", f" {draw.choice(labels)}"]
        for word in words:
            step = strength / len(words) * draw.uniform(-0.5, 2.5)
            tokens.append(Token(word, i, "demonstration", step, step * draw.uniform(-0.3, 1.6)))
        tokens.append(Token("\n\n", None, "separator", 0.01, -0.02))
        heads = tuple(
            tuple(strength * draw.gauss(0.0, 1.0) ** 3 / (n_layers * n_heads) for _ in range(n_heads))
            for _ in range(n_layers)
        )
        knocked = KnockOut((i,), 2.0, draw.gauss(0, 0.1), draw.gauss(0, 0.01))
        effects.append(
            SourceEffect(
                i,
                "".join(words),
                words[-1].strip(),
                len(words),
                strength,
                strength * 1.2,
                knocked,
                by_layer_and_head=heads,
            )
        )
    for word in ["Text:", *(" " + draw.choice(WORDS) for _ in range(max(1, n_tokens - len(tokens) - 2))), "\nMood:"]:
        tokens.append(Token(word, None, "query", draw.gauss(0, 0.1), draw.gauss(0, 0.2)))
    zeros = ((0.0,) * len(effects),) * len(effects)
    return Explanation(
        model=ModelFacts("bundled", "gpt2", n_layers, n_heads, 1_234_567, "float32", 1024),
        prompt="".join(token.text for token in tokens[1:]),
        tokens=tuple(tokens),
        next_tokens=tuple(
            NextToken(f" {w}", i, p, 9.1 - i)
            for i, (w, p) in enumerate(zip(WORDS, [0.9321, 0.04, 0.0123, 0.002, 1e-7], strict=False))
        ),
        candidates=tuple(
            Candidate(text, (f" {text}",), lp, 2.718281828**lp, i == 0)
            for i, (text, lp) in enumerate(zip(labels, [-0.07, -3.1, -12.5], strict=True))
        ),
        answer="calm",
        answer_log_probability=-0.07,
        margin=4.321,
        margin_definition="The logit of the answer 'calm' minus the mean logit of 'storm', 'trade'.",
        sources=tuple(effects),
        others=(
            OtherPart("first", 0.4, 3.1),
            OtherPart("separator", 0.06, -0.12),
            OtherPart("query", -0.3, 0.7),
            OtherPart("biases", None, -1.4),
        ),
        residuals=(
            Residual("attention recomputed against the model's own", 2.1e-7, 1e-5, "capture"),
            Residual("duals against attention", 1.4e-7, 1e-5, "dual_models"),
            Residual("parts against the margin", 3.3e-7, 1e-5, "path"),
        ),
        agreement=(
            Agreement("gradient_step", "path", 0.93, 0.75, 4),
            Agreement("gradient_step", "knock_out", None, 0.5, 4),
        ),
        scores=("gradient_step", "path", "knock_out"),
        completeness=Completeness(0.5, 0.02, 0.05, (0.125, 0.5)),
        influence_at=Taken(0.5, 3.2),
        grounding=Grounding("storm", 0.4, -1.2, 0.3, 1.13),
        pairs=PairEffects(zeros, zeros, ((0, 2),), ((1, 2),), 0.3, 1.1, 8),
        patch=PatchEffects(
            1.2e-7,
            9,
            (0.01,) * n_layers,
            tuple(SourceUpdate(0.002, 0.1, -0.02, 1, 0, 0.5, (0.002,) * n_layers) for _ in effects),
            {"rest": 0.0, "states": 0.0, "norms": 0.1},
            ((0.5,) * len(effects),) * len(effects),
        ),
        group_knock_outs=(KnockOut((0, 3), 1.2, 3.1, 0.4),),
        faithfulness=(Faithfulness("gradient_step", 0.47, 5.2, 3, 64), Faithfulness("path", None, 5.0, 3, 64)),
        notes=("Token 7 ('calm') lies across demonstration 1 and demonstration 2; it counts as demonstration 2.",),
        cost=Cost(3.4, 1.0, {"forward": 0.11, "backward": 0.2, "knock-out": 0.3}),
        command="iclens explain --model bundled --prompt mood.txt --answers calm storm trade",
    )


def odd(text: str) -> Explanation:
    """An explanation whose every string is `text`."""
    base = make(3, 30)
    return replace(
        base,
        model=replace(base.model, name=text, family=text, dtype=text),
        prompt=text,
        tokens=tuple(replace(token, text=text) for token in base.tokens),
        next_tokens=tuple(replace(token, text=text) for token in base.next_tokens),
        candidates=tuple(replace(entry, text=text, tokens=(text,)) for entry in base.candidates),
        answer=text,
        margin_definition=text,
        sources=tuple(
            replace(
                effect,
                text=text,
                label=text,
                name=text,
                kind=text,
                id=text,
                pieces=(Piece(0, text, text, {}), Piece(1, text, text, {"path": 1.0})),
            )
            for effect in base.sources
        ),
        others=tuple(replace(other, name=text) for other in base.others),
        residuals=tuple(replace(residual, name=text) for residual in base.residuals),
        agreement=tuple(replace(pair, first=text, second=text) for pair in base.agreement),
        faithfulness=tuple(replace(test, method=text) for test in base.faithfulness),
        notes=(text,),
        cost=Cost(1.0, 1.0, {text: 1.0}),
        command=text,
    )
