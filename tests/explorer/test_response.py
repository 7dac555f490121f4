"""A response on the page: its numbers are those of explain, the model writes one, and what is copied repeats it."""

import json

import pytest
import torch
from starlette.testclient import TestClient
from tests.explorer.test_recreate import data_of, run, words_of

import iclens
from iclens.cli.explore import Explore
from iclens.cli.main import main
from iclens.errors import UserError
from iclens.explorer import recreate
from iclens.explorer.ask import Ask
from iclens.explorer.explained import explained_page
from iclens.explorer.opening import opening
from iclens.explorer.splitting import split_anew, ways
from iclens.explorer.viewed import Kept
from iclens.explorer.writing import write

TEXT = "cat is vux .\n\napple is nef .\n\ndog is vux .\n\nhorse is"
RESPONSE = "vux . plum is nef ."
SAID = {
    "all": {"response": RESPONSE},
    "a statement": {"response": RESPONSE, "statement": "nef"},
    "a foil": {"response": RESPONSE, "foil": "nef ."},
    "the logit": {"response": RESPONSE, "measure": "logit"},
}
DOCUMENTS = {
    "documents": [{"id": "a", "text": "cat is vux .\ndog is vux ."}, {"id": "b", "text": "plum is nef ."}],
    "question": "horse is",
    "template": "{text}\n\n{question}",
}
CHAT = [
    {"role": "system", "content": "cat is vux ."},
    {"role": "user", "content": "plum is nef ."},
    {"role": "user", "content": "horse is"},
]


@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
def test_a_glance_of_a_response_shows_the_numbers_of_explain(served, model, said):
    status, seen = served.ask("glance", {"text": TEXT, **said, "off": [1]})
    assert status == 200
    own = iclens.explain(model, TEXT, **said, rerun_text=True, knock_out=[(1,)])
    whole = json.loads(json.dumps(own.to_dict()))
    for name in ("answer", "margin", "margin_definition", "answer_log_probability", "notes"):
        assert seen[name] == whole[name] or name == "notes"
    assert seen["response"] == {**whole["response"], "influence": [], "statements": []}
    for one, other in zip(seen["sources"], whole["sources"], strict=True):
        assert (one["name"], one["kind"], one["id"]) == (other["name"], other["kind"], other["id"])
    # Without the text of a source, the model is run on the shorter prompt with the response's own tokens.
    change = own.sources[1].rerun_margin_change
    assert seen["without"]["measured"]["margin_change"] == pytest.approx(change, abs=1e-4)
    estimated = own.group_knock_outs[0].margin
    assert seen["without"]["estimated"]["margin"] == pytest.approx(estimated, abs=1e-4)
    for view, asked in (("layers", {}), ("head", {"layer": 3, "head": 0})):
        status, found = served.ask(view, {"text": TEXT, **said, **asked})
        assert status == 200, found


def test_the_explanation_of_a_response_holds_its_matrix(served, model):
    _, found = served.ask("explain", {"text": TEXT, "response": RESPONSE})
    own = torch.tensor(iclens.explain(model, TEXT, response=RESPONSE).response.influence)
    shown = torch.tensor(found["response"]["influence"])
    torch.testing.assert_close(shown, own)
    # The rows of its tokens sum to the influence of the sources.
    influence = [one["scores"]["influence"] for one in found["sources"]]
    torch.testing.assert_close(shown.sum(0), torch.tensor(influence), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"response": RESPONSE, "answers": ["vux", "nef"]}, "takes the place of answers"),
        ({"response": RESPONSE, "statement": "zup"}, "does not occur"),
        ({"statement": "zup"}, "is for a response"),
        ({"response": 3}, "'response' must be a string"),
        ({"response": RESPONSE, "measure": "odds"}, "measure is 'odds'"),
        ({"within": "words"}, "plit is 'words'"),
        ({"budget": -1}, "udget is -1: it must be"),
    ],
)
def test_every_mistake_is_one_sentence(served, asked, said):
    status, found = served.ask("explain", {"text": TEXT, **asked})
    assert status == 422
    assert said in found["error"]


@pytest.mark.parametrize("seed", [None, 3])
def test_what_the_model_writes_is_read_as_the_tokens_that_it_wrote(served, model, seed):
    status, told = served.ask("write", {"text": TEXT, "generate": 6, "seed": seed})
    assert (status, told["same"]) == (200, True)
    own = iclens.explain(model, TEXT, generate=6, seed=seed, scores=["gradient_step"])
    again = iclens.explain(model, TEXT, response=told["response"], scores=["gradient_step"])
    assert "".join(again.response.tokens).split() == "".join(own.response.tokens).split()
    assert again.margin == pytest.approx(own.margin, abs=1e-5)
    assert served.ask("write", {"text": TEXT, "response": RESPONSE})[0] == 422
    assert served.ask("write", {"text": TEXT, "generate": 0})[0] == 422
    assert write(model, {"text": TEXT}, 6, seed) == told


@pytest.mark.parametrize(
    "document", [{"prompt": TEXT}, DOCUMENTS, {"prompt": TEXT.removesuffix("horse is"), "query": "horse is"}]
)
def test_a_prompt_that_is_split_and_put_together_again_is_itself(model, document):
    whole = {"prompt": TEXT} if "query" in document else document
    given = split_anew({"document": {**document, "split": "lines"}, "split": "lines"}).prompt
    assert ways(given) == ["paragraphs", "lines", "sentences"]
    back = split_anew({**Ask(given).to_document(), "split": None})
    assert back.prompt == Ask.read({"document": whole}).prompt
    lines = split_anew({**back.to_document(), "split": "lines"}).prompt
    assert [span.of(lines.text) for span in lines.sources] == [span.of(given.text) for span in given.sources]


def test_a_chat_is_split_into_its_messages(chatting):
    prompt = split_anew(
        {"document": {"messages": CHAT, "split": "lines"}, "split": "messages"}, chatting.tokenizer
    ).prompt
    assert ways(prompt)[-1] == "messages"
    assert [str(name) for name in prompt.source_names] == ["message 0 (system)", "message 1 (user)"]
    marked = iclens.Prompt.from_spans("cat is vux . horse is", [(0, 12)])
    assert ways(marked) == []
    with pytest.raises(UserError, match="marked one by one"):
        split_anew({**Ask(marked).to_document(), "split": "lines"})


def test_a_question_about_documents_is_written_back_as_it_is(model):
    ask = Ask.read({**DOCUMENTS, **SAID["a statement"], "within": "lines", "budget": 2})
    written = ask.to_document()
    assert Ask.read(json.loads(json.dumps(written))) == ask
    assert [one["name"] for one in written["sources"]] == ["document a", "document b"]
    with pytest.raises(UserError, match="the sources of this prompt are documents"):
        Ask.read({**written, "query": "lion is"})


@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
def test_command_and_python_explain_the_same_response(model, tmp_path, monkeypatch, said):
    ask = Ask.read({**DOCUMENTS, **said, "within": "lines", "budget": 2, "scores": ["influence"]})
    found = Kept(model).of(ask).lens.explanation(ask.scores, **ask.inside)
    page = data_of(explained_page(found))
    assert Ask.read(page["ask"]) == Ask.read({**ask.to_document(), "scores": None})
    words = words_of(page["explanation"]["command"], tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["explain", *words, "--json", "found.json"]) == 0
    told = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    for document in (told, run(page["glance"]["python"])):
        assert document["margin"] == pytest.approx(found.margin, abs=1e-5)
        assert document["response"]["statement"] == found.response.statement
        deleted = [[piece["rerun_margin_change"] is None for piece in one["pieces"]] for one in document["sources"]]
        assert deleted == [[piece.rerun_margin_change is None for piece in one.pieces] for one in found.sources]


def test_a_response_like_an_option_is_no_option(model, tmp_path):
    asked = Ask.read({"text": TEXT, "response": " - vux", "foil": "-nef"})
    words = words_of(recreate.command(asked, model), tmp_path)
    start = words.index("--response")
    assert words[start : start + 3] == ["--response", " - vux", "--foil=-nef"]


@pytest.fixture
def opened(monkeypatch):
    """The question that the page of the command opens with."""
    found = {}

    def run(self, sockets):
        page = TestClient(self.config.app, base_url="http://127.0.0.1").get("/").text
        found.update(data_of(page)["example"])

    monkeypatch.setattr("uvicorn.Server.run", run)
    return found


def test_the_command_opens_with_documents_and_a_response(opened, tmp_path, capsys):
    rows = "".join(json.dumps(one) + "\n" for one in DOCUMENTS["documents"])
    (tmp_path / "docs.jsonl").write_text(rows)
    asked = ["explore", "--port", "0", "--documents", str(tmp_path / "docs.jsonl"), "--question", "horse is"]
    asked += ["--template", DOCUMENTS["template"], "--within", "lines"]
    assert main([*asked, "--response", RESPONSE, "--statement", "nef"]) == 0
    own = Ask.read({**DOCUMENTS, **SAID["a statement"], "within": "lines"})
    assert Ask.read(dict(opened)) == own
    assert main([*asked, "--split", "lines", "--generate", "5"]) == 0
    assert opened["sources"][0]["name"] == "document a, line 0"
    assert opened["response"] == write(iclens.load("bundled"), {**DOCUMENTS, "split": "lines"}, 5)["response"]
    assert main([*asked, "--response", RESPONSE, "--generate", "5"]) == 2
    assert main([*asked, "--response", RESPONSE, "--statement", "zup"]) == 2
    assert "does not occur" in capsys.readouterr().err


def test_the_command_explains_a_response_to_the_example(opened):
    assert Explore(port=0).run() == 0
    assert opened["answers"]
    assert main(["explore", "--port", "0", "--response", RESPONSE]) == 0
    assert (opened["answers"], opened["response"]) == ([], RESPONSE)
    assert main(["explore", "--port", "0", "--split", "lines"]) == 2
    assert opening("bundled")["answers"]
