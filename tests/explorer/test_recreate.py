"""Every question can be told again as a command and as Python, and both give the numbers of the page."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from dataclasses import replace

import pytest
import torch
from tests.explorer.conftest import CHAT

import iclens
from iclens.cli.main import main
from iclens.explorer import recreate
from iclens.explorer.ask import Ask
from iclens.explorer.explained import explained_page
from iclens.explorer.glance import explanation, glance
from iclens.explorer.viewed import Kept
from iclens.lens.model.loading import LensModel, load
from iclens.lens.prompt import Prompt, Span, read_prompt

BLOCKS = ["cat is red .", "apple is blue .", "dog is red ."]
NUMBERS = ("margin", "tokens", "next_tokens", "candidates", "sources", "others", "group_knock_outs")


def examples():
    yield Ask.read({"demonstrations": BLOCKS, "query": "horse is", "answers": ["red", "it's 'blue'"], "off": [0, 2]})
    yield Ask.read(
        {"demonstrations": ["END\nx 'y' $HOME `ls` \\n"], "query": "q", "instruction": "a\n\nb", "answer": "-"}
    )
    yield Ask.read({"demonstrations": BLOCKS, "query": "zebra,  "})
    pairs = [{"input": "c{a}t", "output": 'r"ed'}, {"input": "плюм", "output": "blue"}]
    yield Ask.read({"demonstrations": pairs, "query": "dog", "template": "{input} is\n{output}", "instruction": "Go."})


def words_of(command, folder):
    """Run the lines of a command but the last, and give the words that the shell makes of that one."""
    written, middle, last = command.rpartition("\niclens explain")
    assert middle
    subprocess.run(
        ["sh", "-c", f"{written}\nfor word in{last}; do printf '%s\\0' \"$word\"; done > words"], cwd=folder, check=True
    )
    return (folder / "words").read_text().split("\0")[:-1]


@pytest.mark.parametrize("ask", list(examples()), ids=range(4))
def test_the_command_writes_the_same_prompt(ask, model, tmp_path):
    words = words_of(recreate.command(ask, model), tmp_path)
    options = dict(itertools.pairwise(words))
    blocks = int(options.get("--instruction-blocks", 0))
    assert read_prompt(tmp_path / options["--prompt"], instruction_blocks=blocks) == ask.prompt
    if ask.answers:
        start = words.index("--answers") + 1
        assert tuple(words[start : start + len(ask.answers)]) == ask.answers


@pytest.fixture
def asked(monkeypatch):
    """What the Python gives to `iclens.explain`, which is not run."""
    found = {}

    def explain(model, prompt, **arguments):
        found.update(model=model, prompt=prompt, **arguments)

    monkeypatch.setattr(iclens, "explain", explain, raising=False)
    return found


@pytest.mark.parametrize("ask", list(examples()), ids=range(4))
def test_the_python_builds_the_same_prompt(ask, model, asked):
    exec(recreate.python(ask, model), {})
    assert asked["model"] == "bundled"
    assert asked["prompt"] == ask.prompt
    assert tuple(asked.get("answers", ())) == ask.answers
    assert asked.get("knock_out", ((),)) == (ask.off,)


@pytest.mark.parametrize("text", ["a: b\n\nc\n\nd: e\n\nf:", "a: b\n\nc: d\r\n e\n\nf:"])
def test_the_python_builds_a_prompt_that_no_file_gives(text, model, asked):
    prompt = Prompt.from_text(text)
    if "\r" not in text:
        # Its first two blocks are one demonstration.
        spans = (Span(0, prompt.demonstrations[1].end), prompt.demonstrations[2])
        prompt = replace(prompt, demonstrations=spans, labels=("b", None))
    exec(recreate.python(Ask(prompt), model), {})
    assert asked["prompt"] == prompt
    assert recreate.command(Ask(prompt), model).startswith("# No prompt file gives this prompt")


def test_a_changed_prompt_does_not_tell_what_it_was_written_from(model, asked):
    pairs = Prompt.from_examples([("a", "b"), ("c\n\nd", "e")], "f", "<{input}> {output}", "Do \N{SNOWMAN}\n\nit.")
    for prompt in (replace(pairs, add_special_tokens=False, lead="", follow="\n"), pairs.without([0])):
        exec(recreate.python(Ask(prompt), model), {})
        assert asked["prompt"] == prompt


def test_pieces_of_sources_are_told_by_their_places(model, asked):
    prompt = Prompt.from_documents(["cat is vux .\ndog is vux ."], "horse is", "{text}\n\n{question}").within("lines")
    exec(recreate.python(Ask(prompt), model), {})
    assert asked["prompt"] == prompt


def test_a_chat_is_the_same_tokens_on_the_page_in_the_command_and_in_python(chatting, tmp_path, monkeypatch):
    ask = Ask.read({"messages": CHAT, "answers": ["vux", "nef"], "off": [1]}, chatting.tokenizer)
    seen = glance(viewed(chatting, ask), Ask.read(ask.to_document(), chatting.tokenizer))
    words = words_of(seen["command"], tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["explain", *words, "--json", "found.json"]) == 0
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    for document in (found, run(seen["python"])):
        assert document["prompt"] == "it is cat is vux . it is plum is nef . it is horse is"
        assert [token["text"] for token in document["tokens"]] == [token["text"] for token in seen["tokens"]]
        assert document["margin"] == pytest.approx(seen["margin"], rel=1e-5, abs=1e-5)


MESSAGE = "cat is vux .\n\nplum is nef .\n\nhorse is"
SYSTEM = {"role": "system", "content": "it is vux ."}
PROMPTS = {
    "turns": {"messages": CHAT},
    "turns with a system message in the first": {"messages": [SYSTEM, *CHAT], "system_in_user": True},
    "template arguments": {"messages": CHAT, "template_args": {"ending": "it is"}},
    "shots in one message": {"messages": [{"role": "user", "content": MESSAGE}]},
    "lines in one message": {"messages": [SYSTEM, {"role": "user", "content": MESSAGE.replace("\n\n", "\n")}]},
    "wide blank lines": {"prompt": "cat is vux .\n\n\n\nplum is nef .\n \nhorse is"},
    "separators": {
        "prompt": "it is\n#\ncat is vux .\n#\nplum is nef .\n#\nhorse is", "separator": "#", "instruction_blocks": 1,
    },
    "demonstrations of two lines": {"prompt": "it is\ncat\nis vux .\nplum\nis nef .\nhorse\nis"},
    "two lines each in one message": {"messages": [{"role": "user", "content": "cat\nis vux .\nhorse\nis"}]},
    "lines": {"prompt": MESSAGE.replace("\n\n", "\n")},
    "documents": {"documents": ["cat is vux .", {"id": "b", "text": "plum is nef ."}], "question": "horse is",
                  "template": "it is\n\n{text}\n\n{question}"},
    "documents in a chat": {"documents": ["cat is vux .", "plum is nef ."], "question": "horse is", "as_chat": True},
    "messages": {"messages": CHAT, "split": "messages"},
    "lines of messages": {"messages": CHAT, "split": "lines"},
    "lines that are split": {"prompt": "it is so\n\ncat is vux .\nplum is nef .", "split": "lines", "query": "horse is",
                             "instruction_blocks": 1, "score_instruction": True},
    "spans": {"text": "cat is vux . plum is nef . horse is", "spans": [[0, 12], [13, 26]], "names": ["a", "b"]},
    "pairs on lines": {
        "demonstrations": [{"input": "cat", "output": "vux ."}, {"input": "plum", "output": "nef ."}],
        "query": "horse", "template": "{input} is {output}", "separator": "\n",
    },
}  # fmt: skip


@pytest.mark.parametrize("document", PROMPTS.values(), ids=PROMPTS)
def test_page_saved_page_command_and_python_read_the_tokens_of_explain(document, chatting, tmp_path, monkeypatch):
    found = iclens.explain(chatting, {**document, "answers": ["vux", "nef"]}, scores=["gradient_step"])
    ask = Ask(found.lens.prompt, ("vux", "nef"))
    # What the page sends is what the server wrote for it, through JSON.
    sent = Ask.read(json.loads(json.dumps(ask.to_document())), chatting.tokenizer)
    seen = glance(viewed(chatting, sent), sent)
    saved = data_of(explained_page(found))
    words = words_of(seen["command"], tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["explain", *words, "--json", "found.json"]) == 0
    told = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    own = [(token.text, token.role, token.part) for token in found.tokens]
    assert own[0][1:] == ("first", None)
    for other in (seen, saved["explanation"], told, run(seen["python"]), run(saved["glance"]["python"])):
        assert [(token["text"], token["role"], token["part"]) for token in other["tokens"]] == own
    # And an edit of one block keeps what stands between them.
    if "separator" in document:
        edited = Ask.read({**ask.to_document(), "query": "dog is"})
        assert edited.prompt.text == found.prompt.replace("horse is", "dog is")


@pytest.fixture(scope="module")
def double():
    return load("bundled", dtype=torch.float64)


ASKS = {
    "text": Ask.read(
        {
            "demonstrations": ["cat is vux .", "plum is nef .", "dog is vux ."],
            "query": "horse is",
            "instruction": "it is",
            "answers": ["vux", "nef"],
            "answer": "nef",
            "off": [0, 2],
        }
    ),
    "an answer like an option": Ask.read(
        {"demonstrations": ["cat is vux .", "plum is nef ."], "query": "horse is", "answers": ["vux", "-nef"]}
    ),
    "pairs": Ask.read(
        {
            "demonstrations": [{"input": "cat", "output": "vux ."}, {"input": "plum", "output": "nef ."}],
            "query": "horse",
            "template": "{input} is {output}",
        }
    ),
}


def floats(value):
    """All numbers of a document, in their order."""
    if isinstance(value, dict):
        return [number for entry in value.values() for number in floats(entry)]
    if isinstance(value, (list, tuple)):
        return [number for entry in value for number in floats(entry)]
    return [value] if isinstance(value, float) else []


def numbers(document):
    return torch.tensor(floats([document[name] for name in NUMBERS]), dtype=torch.float64)


def test_the_command_gives_the_numbers_of_the_page(ask, double, model, tmp_path, monkeypatch):
    seen, whole = (view(viewed(double, ask), ask) for view in (glance, explanation))
    assert seen["command"] == whole["command"]
    words = words_of(seen["command"], tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["explain", *words, "--json", "found.json"]) == 0
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    same(found, seen, whole)
    # In single precision they are others: the command tells which.
    assert (numbers(found) - numbers(explanation(viewed(model, ask), ask))).abs().max() > 1e-8


def test_the_python_gives_the_numbers_of_the_page(ask, double):
    seen, whole = (view(viewed(double, ask), ask) for view in (glance, explanation))
    same(run(seen["python"]), seen, whole)


def test_the_python_of_a_saved_page_gives_its_numbers(double):
    ask = replace(ASKS["text"], off=())
    found = explained(double, ask, knock_out=[(0, 1)])
    written = data_of(explained_page(found))["glance"]["python"]
    torch.testing.assert_close(numbers(run(written)), numbers(found.to_dict()), rtol=0, atol=1e-11)


OPTIONS = {
    "scores": ("knock_out", "shapley_sampling"),
    "knock_out": [(0, 1), (2,)],
    "faithfulness": True,
    "precise": True,
    "n_next": 3,
    "seed": 5,
}


def test_a_page_without_a_command_gets_one_that_gives_its_numbers(double, tmp_path, monkeypatch):
    found = explained(double, replace(ASKS["text"], off=()), **OPTIONS)
    data = data_of(explained_page(found))
    words = words_of(data["explanation"]["command"], tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["explain", *words, "--json", "found.json"]) == 0
    for again in (json.loads((tmp_path / "found.json").read_text(encoding="utf-8")), run(data["glance"]["python"])):
        for name in ("margin", "next_tokens", "sources", "group_knock_outs", "faithfulness"):
            assert floats(again[name]) == pytest.approx(floats(found.to_dict()[name]), rel=0, abs=1e-11), name
        assert again["seed"] == 5


def explained(model, ask, **options):
    return iclens.explain(model, ask.prompt, answers=ask.answers, answer=ask.answer, **options)


def viewed(model, ask):
    return Kept(model).of(ask)


def data_of(source):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', source, re.S)[1])


def run(python):
    """The explanation that the Python makes."""
    scope = {}
    exec(python.removesuffix("print(explanation)\n"), scope)
    return scope["explanation"].to_dict()


def same(found, seen, whole):
    assert found["model"]["dtype"] == "float64"
    assert found["answer"].strip() == seen["answer"].strip()
    torch.testing.assert_close(numbers(found), numbers(whole), rtol=0, atol=1e-11)
    near = {"rel": 0.0, "abs": 1e-11}
    assert found["margin"] == pytest.approx(seen["margin"], **near)
    for name in ("tokens", "sources"):
        steps = [[one["gradient_step"] for one in document[name]] for document in (found, seen)]
        assert steps[0] == pytest.approx(steps[1], **near)
    for name in ("candidates", "next_tokens"):
        assert floats(found[name]) == pytest.approx(floats(seen[name]), **near)
    estimated = [] if seen["without"] is None else [seen["without"]["estimated"]["margin"]]
    assert [group["margin"] for group in found["group_knock_outs"]] == pytest.approx(estimated, **near)


@pytest.fixture(params=ASKS)
def ask(request):
    return ASKS[request.param]


@pytest.mark.parametrize(
    ("split", "option", "argument"),
    [(False, ["--device", "cuda:1"], "device='cuda:1'"), (True, ["--device-map", "auto"], "device_map='auto'")],
)
def test_they_say_where_the_weights_are(split, option, argument, model, monkeypatch, tmp_path):
    plain = recreate.command(ASKS["text"], model) + recreate.python(ASKS["text"], model)
    assert not re.search("dtype|device|load", plain)
    monkeypatch.setattr(LensModel, "device", torch.device("cuda:1"))
    monkeypatch.setattr(LensModel, "is_split", split)
    words = words_of(recreate.command(ASKS["text"], model), tmp_path)
    assert words[2:4] == option
    assert f"iclens.load('bundled', {argument})" in recreate.python(ASKS["text"], model)
