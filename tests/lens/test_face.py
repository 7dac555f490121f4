"""The face of the lens: what users type, and what they are told when they mistype."""

from __future__ import annotations

import inspect
import re
from functools import cache
from pathlib import Path

import pytest
from tests.cli.batches import batch, prompts, text

import iclens
from iclens import Explanation, Lens, Prompt, UserError, explain, explain_many
from iclens.attribution import ATTRIBUTIONS
from iclens.lens import COLUMNS, VIEWS, WRITERS, LensModel

PROMPT = text(4)
NAMES = [name for name, _, _ in COLUMNS]
SCORES = ("knock_out", "gradient_step", "path", "rerun", "lasso_margin")


@cache
def model() -> LensModel:
    return iclens.load("bundled")


@cache
def found() -> Explanation:
    """With all that an explanation can hold."""
    return explain(model(), PROMPT, answers=["vux", "nef"], scores=SCORES, knock_out=[(0, 2)], faithfulness=True)


@pytest.fixture
def passes():
    """Counts the passes through the model."""
    seen = []
    handle = model().model.register_forward_pre_hook(lambda *given: seen.append(1))
    yield seen
    handle.remove()


def test_a_name_a_loaded_model_and_one_of_hugging_face_are_explained_alike():
    of_huggingface = model().model, {"tokenizer": model().tokenizer}
    by_name, loaded, wrapped = (
        explain(one, PROMPT, answers=["vux", "nef"], **options)
        for one, options in (("bundled", {}), (model(), {}), of_huggingface)
    )
    assert by_name.sources == loaded.sources == wrapped.sources
    assert Lens("bundled", PROMPT, answers=["vux", "nef"]).explanation().sources == loaded.sources
    assert by_name.scores == ("influence_deletions", "influence", "gradient_step")


def test_beyond_twenty_demonstrations_knock_outs_take_the_place_of_deletions_where_they_are_cheap():
    words = ["dog", "tiger", "cat", "horse", "wolf", "lion", "fox"]
    blocks = [f"{word} is blick ." for word in words * 3]
    found = explain("bundled", "\n\n".join([*blocks, "cow is"]), answers=["vux", "blick"])
    assert len(found.sources) == 21
    assert found.scores == ("influence_knock_out", "influence", "gradient_step")
    both = explain(
        "bundled", "\n\n".join([*blocks, "cow is"]), answers=["vux", "blick"], scores=["knock_out", "influence"]
    )
    for one, other in zip(found.sources, both.sources, strict=True):
        assert one.score("influence_knock_out") == pytest.approx(
            (other.score("knock_out") + other.score("influence")) / 2
        )
    long = "\n\n".join([*blocks, " ".join(["cat is blick ."] * 5) + " cow is"])
    assert explain("bundled", long, answers=["vux", "blick"]).scores == ("influence", "gradient_step")


def test_a_lens_and_an_explanation_say_the_same():
    lens = Lens(model(), PROMPT, answers=["vux", "nef"])
    assert repr(lens) == f"Lens('bundled', 4 demonstrations, {lens.tokenized.n_tokens} tokens)"
    e = lens.explanation(("gradient_step", "path", "knock_out", "rerun"), knock_out=[(0, 2)])
    assert (lens.answer.text, lens.answer.candidates, lens.answer.next_tokens) == (
        e.answer,
        e.candidates,
        e.next_tokens,
    )
    assert (lens.answer.margin, lens.answer.log_probability) == (e.margin, e.answer_log_probability)
    for name in e.scores:
        assert [effect.score(name) for effect in e.sources] == pytest.approx(lens.score(name).values.tolist(), abs=1e-4)
    (group,) = e.group_knock_outs
    assert group.margin == pytest.approx(float(lens.knock_out([(2, 0)]).margins[0]), abs=1e-4)
    assert isinstance(lens.head(3, 1), iclens.DualModel)
    with pytest.raises(UserError, match="no head 2 in layer 0: bundled has 4 layers of 2 heads"):
        lens.head(0, 2)


def unchecked(call):
    """A call as users make it: tests may check types at run time, and these arguments are of none that is promised."""
    if not inspect.isclass(call):
        return inspect.unwrap(call)

    def make(*given):
        inspect.unwrap(call.__init__)(object.__new__(call), *given)

    make.__name__ = call.__name__
    return make


@pytest.mark.parametrize(("call", "noun"), [(explain, "prompt"), (Lens, "prompt"), (explain_many, "prompts")])
def test_an_argument_out_of_place_gets_the_right_call(call, noun, passes):
    call = unchecked(call)
    tokenizer = model().tokenizer
    right = (
        rf"call {call.__name__}\(model, {noun}, answers=\[\.\.\.\]\), with tokenizer=\.\.\. for a Hugging Face model"
    )
    for what, *given in (
        (f"the {noun} (is|are) a {type(tokenizer).__name__}", tokenizer),
        (f"the {noun} (is|are) a {type(tokenizer).__name__}", tokenizer, PROMPT),
        (f"takes model and {noun} by place, and the rest by name", [PROMPT], tokenizer),
    ):
        with pytest.raises(UserError, match=f"{what}: {right}"):
            call(model().model, *given)
    assert passes == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"answers": "red"}, r"the answers are the text 'red': give a list, e.g. answers=\['red', '...'\]"),
        ({"answers": ["vux", " "]}, "tokenise to nothing|no visible character"),
        ({"scores": "path"}, r"the scores are the text 'path': give a list, e.g. scores=\['path'\]"),
        ({"scores": ["gradient_stp"]}, "Did you mean 'gradient_step'"),
        ({"scores": ["path", "lasso", "path"]}, "'path' is named twice"),
        ({"scores": []}, "there are no scores: name at least one"),
        ({"prompt": "only a query"}, "at least one demonstration"),
        ({"prompt": text(4) + "\n\n" + text(6) * 9}, "context holds 128"),
        ({"tokenizer": object()}, "brings its own"),
        ({"model": lambda: LensModel.wrap(model().model), "answers": None}, "a tokenizer is needed"),
        ({"knock_out": [(4,)]}, "cannot knock out demonstration 4: .* numbered from 0 to 3"),
        ({"knock_out": [(1,), ()]}, "a group to knock out is empty"),
    ],
)
def test_a_mistake_is_named_before_anything_runs(arguments, message, passes):
    given = {"answers": ["vux", "nef"]} | arguments
    one = given.pop("model", model)()
    with pytest.raises(UserError, match=message):
        explain(one, given.pop("prompt", PROMPT), **given)
    assert passes == []


def test_what_is_printed_is_the_commands_table(tmp_path, capsys):
    e = explain("bundled", PROMPT, answers=["vux", "nef"], rerun_text=True)
    printed = str(e)
    assert max(map(len, printed.splitlines())) <= 100
    (tmp_path / "p.txt").write_text(PROMPT)
    command = ["explain", "--prompt", str(tmp_path / "p.txt"), "--answers", "vux", "nef", "--rerun"]
    assert iclens_command(command) == 0
    assert capsys.readouterr().out.split() == printed.split()
    assert repr(e) == f"Explanation('vux', logit difference {e.margin:+.3f} nats, 4 demonstrations, exact)"
    assert e.demonstrations is e.sources


def iclens_command(words):
    from iclens.cli.main import main

    return main(words)


def test_rows_are_those_of_a_batch_and_of_every_file(tmp_path):
    import pyarrow.parquet as pq

    rows = found().to_rows()
    assert [list(row) for row in rows] == [NAMES] * 4
    others = [name for name in SCORES if name not in NAMES]
    assert found().to_pandas().columns.tolist() == NAMES + others
    for name in others:
        assert found().to_pandas()[name].tolist() == [effect.score(name) for effect in found().sources]
    assert found().to_pandas()["path"].tolist() == [effect.path for effect in found().sources]
    found().save(tmp_path / "e.parquet")
    assert batch(tmp_path, [{"prompt": PROMPT, "answers": ["vux", "nef"]}], "--scores", *SCORES) == 0
    one, many = (pq.read_table(tmp_path / name) for name in ("e.parquet", "o.parquet"))
    assert one.schema.equals(many.schema)
    assert all(many.schema.field(name).metadata == one.schema.field(name).metadata for name in NAMES)
    for row, saved, batched in zip(rows, one.to_pylist(), many.to_pylist(), strict=True):
        assert saved | {"scores": dict(saved["scores"])} == row
        assert batched.pop("scores") == [("lasso_margin", pytest.approx(row["scores"]["lasso_margin"], abs=1e-4))]
        assert (batched.pop("line"), batched.pop("id")) == (1, "1")
        for name, value in batched.items():
            expected = pytest.approx(row[name], abs=1e-4) if "residual" not in name else row[name]
            assert value == expected or value < 1e-5, name


def test_the_page_of_batches_names_every_column():
    page = (Path(__file__).parents[2] / "docs" / "explain-batch.md").read_text()
    cells = re.findall(r"^\| (`[^|]*) \| (?:int|string|float|list|map)", page, re.M)
    assert [name for cell in cells for name in re.findall(r"`(\w+)`", cell)] == NAMES


def test_what_is_saved_is_loaded_again(tmp_path):
    found().save(tmp_path / "e.json")
    again = Explanation.load(str(tmp_path / "e.json"))
    assert again == found()
    assert again.lens is None
    assert str(again) == str(found())
    assert again.to_rows() == found().to_rows()
    found().save(tmp_path / "E.HTML")
    assert found().prompt.split()[0] in (tmp_path / "E.HTML").read_text()
    assert "<iframe" in found().show()._repr_html_()


@pytest.mark.parametrize(("name", "hint"), [("e.jsn", " Did you mean '.json'"), ("e", ""), ("e.csv", "")])
def test_an_unknown_ending_writes_nothing(name, hint, tmp_path):
    with pytest.raises(UserError, match=rf"the ending says how to write.*{hint}.*Known: \.html, \.json, \.parquet"):
        found().save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_fails_leaves_the_file_that_was_there(tmp_path):
    def failing(explanation):
        raise UserError("no page today")

    (tmp_path / "e.html").write_text("old")
    with WRITERS.replaced("html", failing), pytest.raises(UserError, match="no page today"):
        found().save(tmp_path / "e.html")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_view_of_ones_own_is_a_name_in_the_registry():
    with VIEWS.replaced("text", lambda explanation: explanation.answer):
        assert str(found()) == "vux"
    assert str(found()) != "vux"


@pytest.mark.parametrize("scores", [SCORES, ("path", "gradient_step")])
def test_bars_are_as_long_as_the_scores(scores):
    ordered = found().ranked(scores[0])
    axes = found().plot(scores=scores)
    assert [bars.get_label() for bars in axes.containers] == axes.get_legend_handles_labels()[1]
    for name, bars in zip(scores, axes.containers, strict=True):
        assert [bar.get_width() for bar in bars] == [effect.score(name) for effect in ordered]
    assert [label.get_text()[:2] for label in axes.get_yticklabels()] == [f"#{effect.index}" for effect in ordered]
    assert axes.yaxis_inverted()
    with pytest.raises(UserError, match="'lasso' was not computed"):
        found().plot(scores=("lasso",))


def test_many_come_in_the_order_of_the_prompts_as_each_comes_alone():
    asked = [{key: value for key, value in one.items() if key != "id"} for one in prompts(7)]
    asked += [Prompt.from_text(PROMPT), {"prompt": PROMPT, "answer": "nef"}]
    scores = ("gradient_step", "path", "knock_out", "rerun", "lasso_margin")
    many = explain_many(model(), asked, scores=scores, most_tokens=60, seed=3)
    for one, several in zip(asked, many, strict=True):
        alone = explain(model(), one, scores=scores, seed=3)
        assert (several.prompt, several.answer) == (alone.prompt, alone.answer)
        assert several.lens is None
        assert several.exact
        for effect, other in zip(several.sources, alone.sources, strict=True):
            for name in scores:
                assert effect.score(name) == pytest.approx(other.score(name), abs=1e-5 * max(1, abs(alone.margin)))


def test_a_bad_prompt_among_many_is_named_before_any_runs(passes):
    with pytest.raises(UserError, match=r"prompt 2: .*at least one demonstration"):
        explain_many(model(), [PROMPT, PROMPT, "only a query"])
    with pytest.raises(UserError, match="prompt 1: a JSON number"):
        unchecked(explain_many)(model(), [PROMPT, 3])
    with pytest.raises(UserError, match=r"prompt 0: .*'qqqq' is unknown to the tokenizer"):
        explain_many(model(), [{"prompt": PROMPT, "answers": ["qqqq"]}])
    with pytest.raises(UserError, match="the prompts are one prompt: give a list of prompts"):
        explain_many(model(), PROMPT)
    assert passes == []


@pytest.mark.parametrize("many", [False, True])
def test_progress_is_shown_on_a_terminals_standard_error(many, monkeypatch, capsys):
    def run():
        if many:
            list(explain_many(model(), [PROMPT], progress=True))
        else:
            explain(model(), PROMPT, progress=True)
        return capsys.readouterr()

    assert run() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    out, err = run()
    assert out == ""
    assert "explaining" in err


def test_progress_as_a_function_is_called_with_every_stage():
    stages = []
    explain(model(), PROMPT, scores=["path", "rerun"], progress=stages.append)
    assert list(dict.fromkeys(stages)) == ["answer", "check against the model", "path", "rerun"]


SIGNLESS = {
    *("attention_weights", "attention_rollout", "gradient_x_input", "gradient_norm", "sensitivity"),
    *("patch_size", "random"),
}
"""Methods whose numbers say how much, or nothing, but not for or against."""

OF_LABELS = {"detail", "detail_self", "label_surprise", "label_surprise_orders", "label_doubt"}
"""Methods that need pairs of input and output, and that say of these whether their labels are right."""


def test_positive_supports_in_every_score():
    """Two animals with two labels, and things that are no animals: each label's only support is one demonstration."""
    against, support, *rest = "dog is nef .", "cat is vux .", "plum is zup .", "peru is koba .", "apple is zup ."
    names = sorted(set(ATTRIBUTIONS) - SIGNLESS - OF_LABELS)
    e = explain(model(), "\n\n".join([against, support, *rest, "horse is"]), answers=["vux", "nef"], answer="vux",
                scores=names)  # fmt: skip
    deleted = [explain(model(), "\n\n".join([*kept, *rest, "horse is"]), answers=["vux", "nef"], answer="vux").margin
               for kept in ([support], [against])]  # fmt: skip
    # Without the one that opposes the margin grows, without the one that supports it falls.
    assert deleted[1] < e.margin - 5 < e.margin + 5 < deleted[0]
    assert [effect.text for effect in e.sources[:2]] == [against, support]
    for name in names:
        assert e.sources[0].score(name) < 0 < e.sources[1].score(name), name
