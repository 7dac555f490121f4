"""`absorb` on the bundled learner, whose prompts matter: what it keeps, on queries that took no part."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.selection.words import TEMPLATE, draw, learner

import iclens
from iclens.absorption import Absorbed
from iclens.errors import UserError
from iclens.lens.prompt import Prompt

KNOWN = draw(3, n_wrong=0)
WRITTEN: dict[str, Any] = {"template": TEMPLATE, "candidates": KNOWN.labels}


def absorbed(**options: Any) -> Absorbed:
    torch.set_default_dtype(torch.float32)
    return iclens.absorb(learner(), KNOWN.pool, KNOWN.dev, **WRITTEN, **options)


@cache
def whole() -> Absorbed:
    return absorbed(rank=4, ranks=(1, 2), numbers=(6,), compare_lora=True, lora_steps=3)


def test_it_keeps_what_the_demonstrations_do_without_their_tokens() -> None:
    found = whole()
    zero, prompt, own = (found.named(name) for name in ("zero-shot", "prompt", "absorbed"))
    assert zero.divergence.mean > 1.0
    assert found.loss == own.divergence
    assert found.kept == pytest.approx(1 - own.divergence.mean / zero.divergence.mean)
    assert found.kept > 0.9
    assert own.reached.metric.mean >= prompt.reached.metric.mean - 0.1
    assert own.reached.metric.mean > zero.reached.metric.mean + 0.3
    # The query is a first token, a word and " is".
    assert own.tokens == zero.tokens == 3.0
    assert found.tokens_saved == prompt.tokens - 3.0 > 40


def test_the_prompt_is_held_against_itself_and_every_rank_and_number_has_its_row() -> None:
    found = whole()
    prompt = found.named("prompt")
    assert prompt.divergence.mean == prompt.difference.mean == prompt.change.metric.mean == 0.0
    assert [one.rank for one in found.by_rank] == [1, 2, 4]
    assert [(one.demonstrations, one.name) for one in found.by_number] == [
        (6, "prompt"), (6, "absorbed"), (12, "prompt"), (12, "absorbed"),
    ]  # fmt: skip
    assert [one.name for one in found.main[3:]] == ["LoRA on the demonstrations", "LoRA on the prompt's answers"]
    assert {one.rank for one in found.main[2:]} == {4}


def test_what_it_says_is_what_the_changed_model_says() -> None:
    """The log-loss of the held-out queries, by the model's own logits of the labels' tokens."""
    model = learner()
    asked = KNOWN.dev[12:]
    found = absorbed_of(KNOWN.dev[:12], asked)
    with found.applied() as changed, torch.no_grad():
        for (word, right), log_p in zip(asked, found.named("absorbed").log_p, strict=True):
            ids = model.tokenizer(f"{word} is", return_tensors="pt").input_ids
            logits = changed.model(input_ids=ids).logits[0, -1].double()
            firsts = [model.tokenizer(f"{word} is {label}").input_ids[ids.shape[1]] for label in KNOWN.labels]
            own = logits[firsts].log_softmax(0)[KNOWN.labels.index(right)]
            assert log_p == pytest.approx(float(own), abs=1e-4)


def test_queries_that_take_no_part_do_not_change_the_adapter() -> None:
    half = KNOWN.dev[:12]
    found = [absorbed_of(half, KNOWN.dev[12:18]), absorbed_of(half, KNOWN.dev[18:])]
    one, other = (each.adapter.tensors() for each in found)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert found[0].loss != found[1].loss


def absorbed_of(queries: list[tuple[str, str]], held_out: list[tuple[str, str]]) -> Absorbed:
    torch.set_default_dtype(torch.float32)
    options = {"rank": 2, "ranks": (), "numbers": (), "held_out": held_out}
    return iclens.absorb(learner(), KNOWN.pool, queries, **WRITTEN, **options)


def test_a_prompt_gives_its_demonstrations_and_the_same_adapter() -> None:
    text = Prompt.from_examples(KNOWN.pool, "stone", TEMPLATE)
    options: dict[str, Any] = {"rank": 2, "ranks": (), "numbers": (), "candidates": KNOWN.labels}
    torch.set_default_dtype(torch.float32)
    one = iclens.absorb(learner(), text, KNOWN.dev, **options).adapter.tensors()
    other = absorbed(rank=2, ranks=(), numbers=()).adapter.tensors()
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_free_answers_of_any_text_are_absorbed_too() -> None:
    torch.set_default_dtype(torch.float32)
    pairs = [(word, f"{label} {label}") for word, label in KNOWN.pool]
    asked = [(word, f"{label} {label}") for word, label in KNOWN.dev]
    options = {"rank": 2, "ranks": (), "numbers": ()}
    found = iclens.absorb(learner(), pairs, asked, template=TEMPLATE, candidates=None, **options)
    assert found.kept > 0.5


def test_rows_frames_json_and_text_say_the_same(tmp_path: Path) -> None:
    found = whole()
    rows = found.to_rows()
    assert [row["study"] for row in rows] == ["main"] * 5 + ["rank"] * 3 + ["demonstrations"] * 4
    assert list(found.to_pandas()["divergence"]) == [row["divergence"] for row in rows]
    told = json.loads(found.to_json())
    assert told["rows"] == json.loads(json.dumps(rows))
    assert told["parameters"] == sum(one.numel() for one in found.adapter.tensors().values())
    text = str(found)
    assert f"became {told['parameters']} numbers (rank 4, " in text
    assert "queries that took no part" in text
    found.save(tmp_path / "adapter")
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip


def test_a_lora_that_is_trained_longer_is_nearer_to_its_targets() -> None:
    short, long = whole(), absorbed(rank=4, ranks=(), numbers=(), compare_lora=True, lora_steps=30)
    name = "LoRA on the prompt's answers"
    assert (
        long.named(name).divergence.mean < short.named(name).divergence.mean < short.named("zero-shot").divergence.mean
    )


def test_progress_tells_of_every_stage() -> None:
    told: list[tuple[int, int, str]] = []
    absorbed(rank=2, ranks=(1,), numbers=(6,), progress=lambda *one: told.append(one))
    ends = [stage for stage, done, _ in told if done == 1000]
    assert ends == list(range(6))
    assert {name for _, _, name in told} >= {"reading queries alone", "fitting rank 1 to 12 demonstrations"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"rank": 10_000}, "give at most"),
        ({"ranks": (0,)}, "a rank is 0"),
        ({"ridge": -1.0}, "ridge is -1"),
        ({"emphasis": 0.0}, "emphasis is 0"),
        ({"numbers": (13,)}, "from 1 to 12"),
        ({"targets": ("heads",)}, "'heads' is not known"),
        ({"layers": [99]}, "has the layers 0 to"),
        ({"held_out": 1.0}, "between 0 and 1"),
        ({"compare_lora": True, "lora_steps": 0}, "1 step at least"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        absorbed(**options)


def test_a_query_that_is_a_demonstration_is_refused() -> None:
    with pytest.raises(UserError, match="is demonstration 0"):
        iclens.absorb(learner(), KNOWN.pool, [KNOWN.pool[0], *KNOWN.dev], **WRITTEN)
