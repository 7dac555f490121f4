"""Reading of real data in every layout, and one sentence for each of their faults."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from iclens.errors import UserError
from iclens.papers.ren_liu_2024.table_1.glue import TASKS, Example
from iclens.papers.ren_liu_2024.table_1.glue_files import load_task
from iclens.papers.ren_liu_2024.table_1.sentences import generate_sentences

# A sound line of GLUE's own files, the header before it, and what it says.
OWN = {
    "cola": ("", 'gj04\t0\t*\tThe "box" fell, it', Example(('The "box" fell, it',), 0.0)),
    "mrpc": (
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        '1\t7\t8\t" A b , c .\tD " e .',
        Example(('" A b , c .', 'D " e .'), 1.0),
    ),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "0\tg\tf\t2012\t1\tnone\tnone\tÀ man.\tA woman.\t3.800",
        Example(("À man.", "A woman."), 3.8),
    ),
    "rte": (
        "index\tsentence1\tsentence2\tlabel",
        "0\tNo weapons.\tWeapons.\tnot_entailment",
        Example(("No weapons.", "Weapons."), 1.0),
    ),
    "sst2": ("sentence\tlabel", "fine \t1", Example(("fine ",), 1.0)),
    "qnli": ("index\tquestion\tsentence\tlabel", "3\tWho?\tHe.\tentailment", Example(("Who?", "He."), 0.0)),
    "mnli": (
        "index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label",
        "0\tfiction\tA.\tB.\tneutral\tcontradiction",
        Example(("A.", "B."), 2.0),
    ),
    "wnli": ("index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\t0", Example(("A.", "B."), 0.0)),
}


def own(folder, name, *, train=None, dev=None, encoding="utf-8", ending="\n"):
    """A task in GLUE's own layout: of one sound line, or of the content given."""
    task, (header, line, _) = TASKS[name], OWN[name]
    place = folder / task.title
    place.mkdir(parents=True, exist_ok=True)
    for file, content in (("train", train), (task.dev, dev)):
        lines = [header, line] if header else [line]
        text = ending.join([*lines, ""]) if content is None else content
        (place / f"{file}.tsv").write_bytes(text.encode(encoding))
    return str(folder)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_glues_own_files_are_read_with_and_without_a_byte_order_mark(tmp_path, name, encoding, ending):
    data = load_task(name, own(tmp_path, name, encoding=encoding, ending=ending))
    assert data.train == data.validation == (OWN[name][2],)
    assert not data.generated


def test_every_task_is_read():
    assert set(OWN) == set(TASKS)


def test_a_last_line_without_an_end_is_a_line(tmp_path):
    header, line, example = OWN["rte"]
    assert load_task("rte", own(tmp_path, "rte", train=f"{header}\n{line}\n{line}")).train == (example, example)


def test_the_folder_may_have_the_tasks_name_and_not_both(tmp_path):
    own(tmp_path, "rte")
    (tmp_path / "RTE").rename(tmp_path / "rte")
    assert load_task("rte", str(tmp_path)).train == (OWN["rte"][2],)
    (tmp_path / "RTE").mkdir(exist_ok=True)
    if len(list(tmp_path.iterdir())) == 2:
        with pytest.raises(UserError, match="a folder RTE and a folder rte; keep one"):
            load_task("rte", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "train", "message"),
    [
        ("rte", "index\tsentence1\tlabel\n0\tA.\tentailment\n", "first line names no column 'sentence2'.*RTE names"),
        ("mrpc", "1\t7\t8\tA.\tB.\n", "first line names no column '#1 String'"),
        ("rte", f"{OWN['rte'][0]}\n0\tA.\tB.\n", r"train\.tsv, line 2: 3 cells between tabs, not 4 as line 1 has"),
        ("rte", f"{OWN['rte'][0]}\n\n{OWN['rte'][1]}\n", "line 2: 1 cells between tabs"),
        ("cola", "sentence\tlabel\nA.\t1\n", "line 1: 2 cells .* 4 as GLUE's CoLA has, source, label, mark, sentence"),
        ("cola", "source\tlabel\tmark\tsentence\n", "example 1: the label 'label' is not a number"),
        ("cola", "gj04\t1\t\t \n", "line 1: a sentence is empty"),
        ("rte", f"{OWN['rte'][0]}\n0\tA.\tB.\tentails\n", "the label 'entails' is none of entailment, not_entail"),
        ("stsb", f"{OWN['stsb'][0]}\n{OWN['stsb'][1].replace('3.800', '7')}\n", "the grade 7 is not between 0 and 5"),
        ("stsb", f"{OWN['stsb'][0]}\n{OWN['stsb'][1].replace('3.800', 'nan')}\n", "the grade nan is not between"),
        ("rte", OWN["rte"][0] + "\n", "the split 'train' of the task rte is empty"),
        ("cola", "", "the split 'train' of the task cola is empty"),
    ],
)
def test_every_fault_of_glues_files_is_named(tmp_path, name, train, message):
    with pytest.raises(UserError, match=message):
        load_task(name, own(tmp_path, name, train=train))


def test_files_of_another_encoding_and_folders_one_too_deep_are_named(tmp_path):
    own(tmp_path, "rte")
    with pytest.raises(UserError, match="it holds a task's files itself; give the folder that holds RTE"):
        load_task("rte", str(tmp_path / "RTE"))
    (tmp_path / "RTE" / "train.tsv").write_bytes("index\tÀ".encode("latin-1"))
    with pytest.raises(UserError, match=r"train\.tsv is not UTF-8"):
        load_task("rte", str(tmp_path))
    (tmp_path / "RTE" / "train.tsv").unlink()
    with pytest.raises(
        UserError, match=r"no split 'train' \(train\.jsonl, train\.csv, train\.tsv\); it has validation"
    ):
        load_task("rte", str(tmp_path))


def test_no_sentences_are_generated_for_the_other_tasks():
    with pytest.raises(UserError, match="no sentences are generated for the task sst2, only for cola"):
        generate_sentences("sst2", 4, 4)


def write(folder, name, part, rows, suffix="jsonl"):
    place = folder / name
    place.mkdir(exist_ok=True)
    if suffix == "jsonl":
        (place / f"{part}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    else:
        columns = list(rows[0])
        lines = [",".join(columns), *(",".join(str(row[c]) for c in columns) for row in rows)]
        (place / f"{part}.csv").write_text("\n".join(lines))


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_folder_is_read(tmp_path, suffix):
    rows = [{"sentence1": "a b", "sentence2": "c", "label": 4.5}, {"sentence1": "d", "sentence2": "e", "label": 0}]
    for part in ("train", "validation"):
        write(tmp_path, "stsb", part, rows, suffix)
    data = load_task("stsb", str(tmp_path))
    assert data.train == data.validation == (Example(("a b", "c"), 4.5), Example(("d", "e"), 0.0))
    assert not data.generated
    assert "generated" not in data.title


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"sentence": "a"}, "'label' is missing"),
        ({"text": "a", "label": 1}, "'sentence' is missing"),
        ({"sentence": "a", "label": -1}, "hides the labels"),
        ({"sentence": "a", "label": 0.5}, "none of 0 … 1"),
        ({"sentence": "a", "label": "good"}, "not a number"),
    ],
)
def test_bad_examples_are_named(tmp_path, row, message):
    for part in ("train", "validation"):
        write(tmp_path, "cola", part, [{"sentence": "fine", "label": 1}, row])
    with pytest.raises(UserError, match=f"cola, train, example 2: .*{message}"):
        load_task("cola", str(tmp_path))


def test_a_folder_without_the_task_a_split_or_json_is_refused(tmp_path):
    with pytest.raises(UserError, match="it has no folder CoLA or cola"):
        load_task("cola", str(tmp_path))
    with pytest.raises(UserError, match="it is not a folder"):
        load_task("cola", str(tmp_path / "nowhere"))
    write(tmp_path, "cola", "train", [{"sentence": "fine", "label": 1}])
    with pytest.raises(UserError, match="no split 'validation'"):
        load_task("cola", str(tmp_path))
    (tmp_path / "cola" / "validation.jsonl").write_text("{")
    with pytest.raises(UserError, match=r"validation\.jsonl, line 1: not JSON"):
        load_task("cola", str(tmp_path))


def test_without_the_library_datasets_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install datasets"):
        load_task("rte", "glue")


def test_the_hub_is_asked_by_glues_name_and_its_failure_is_one_sentence(monkeypatch, tmp_path):
    asked = []

    def load_dataset(*names):
        asked.append(names)
        rows = [{"sentence1": "a", "sentence2": "b", "label": 0, "idx": 0}]
        return {"train": rows, "validation": rows, "test": [{"label": -1}]}

    monkeypatch.setitem(
        sys.modules,
        "datasets",
        SimpleNamespace(load_dataset=load_dataset, load_from_disk=lambda place: load_dataset(place)),
    )
    assert load_task("rte", "glue").train == (Example(("a", "b"), 0.0),)
    assert asked == [("glue", "rte")]
    (tmp_path / "rte").mkdir()
    (tmp_path / "rte" / "dataset_dict.json").write_text("{}")
    assert load_task("rte", str(tmp_path)).train == (Example(("a", "b"), 0.0),)

    def offline(*names):
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=offline))
    with pytest.raises(UserError, match=r"cannot be had from the hub \(no route\)"):
        load_task("rte", "glue")
