"""The server gives the lens's own numbers, to its own pages only, and one sentence where it cannot."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tests.explorer.conftest import CHAT
from tests.lens.many_prompts import tokenizer
from tests.lens.zoo import build

import iclens
from iclens.cli.explore import Explore
from iclens.cli.main import main
from iclens.explorer import page
from iclens.explorer.guard import is_loopback
from iclens.lens.prompt.prompt import Prompt

TEXT = "cat is vux .\n\napple is nef .\n\ndog is vux .\n\nhorse is"
ANSWERS = ["vux", "nef"]
SCORES = ["influence", "gradient_step"]
"""Those of the page where none are asked for."""


def without_cost(document):
    """The explanation but for what differs from run to run, and the command."""
    return {key: value for key, value in document.items() if key not in ("cost", "command")}


def test_explain_is_iclens_explain(served, model):
    status, found = served.ask("explain", {"text": TEXT, "answers": ANSWERS, "off": [0, 2]})
    own = iclens.explain(model, TEXT, answers=ANSWERS, knock_out=[(0, 2)], scores=SCORES).to_dict()
    assert status == 200
    assert without_cost(found) == without_cost(json.loads(json.dumps(own)))


def test_explain_is_what_the_command_writes(served, tmp_path, capsys):
    _, found = served.ask("explain", {"text": TEXT, "answers": ANSWERS})
    (tmp_path / "prompt.txt").write_text(TEXT)
    arguments = ["explain", "--prompt", str(tmp_path / "prompt.txt"), "--answers", *ANSWERS, "--scores", *SCORES]
    assert main([*arguments, "--json", str(tmp_path / "e.json")]) == 0
    assert without_cost(found) == without_cost(json.loads((tmp_path / "e.json").read_text()))


def test_the_scores_that_are_asked_for_are_explained(served, model):
    scores = ["path", "knock_out", "influence"]
    asked = {"text": TEXT, "answers": ANSWERS, "scores": scores}
    status, found = served.ask("explain", asked)
    assert status == 200
    assert without_cost(found) == without_cost(
        json.loads(json.dumps(iclens.explain(model, TEXT, answers=ANSWERS, scores=scores).to_dict()))
    )
    status, refused = served.ask("explain", {**asked, "scores": ["paht"]})
    assert status == 422
    assert "path" in refused["error"]


@pytest.mark.parametrize("answers", [ANSWERS, [], ["vux nef", "vux zup"]], ids=["one token", "none", "several tokens"])
def test_a_glance_shows_the_numbers_of_explain(served, model, answers):
    status, seen = served.ask("glance", {"text": TEXT, "answers": answers, "off": [0, 2]})
    assert status == 200
    own = iclens.explain(model, TEXT, answers=answers or None, knock_out=[(0, 2)])
    whole = json.loads(json.dumps(own.to_dict()))
    for name in ("candidates", "next_tokens", "answer", "answer_log_probability", "margin", "margin_definition"):
        assert seen[name] == whole[name], name
    for one, other in zip(seen["sources"], whole["sources"], strict=True):
        # The explanation sums within input and output first.
        assert one.pop("gradient_step") == pytest.approx(other["gradient_step"], rel=1e-12)
        assert one == {name: other[name] for name in one}
    for one, other in zip(seen["tokens"], whole["tokens"], strict=True):
        assert one == {name: other[name] for name in one} | {"path": None}
    assert seen["n_tokens"] == len(own.lens.tokenized.texts)
    assert seen["refined"] == own.scores[0]
    # Another number of sets in one pass rounds differently.
    (group,) = whole["group_knock_outs"]
    estimated = seen["without"]["estimated"]
    assert estimated["margin"] == pytest.approx(group["margin"], abs=1e-4)
    assert estimated["margin_change"] == pytest.approx(group["margin_change"], abs=1e-4)


def test_what_the_knock_out_estimates_stands_beside_its_error(served):
    _, seen = served.ask("glance", {"text": TEXT, "answers": ANSWERS, "off": [1]})
    estimated, measured = seen["without"]["estimated"], seen["without"]["measured"]
    assert estimated["error"] == pytest.approx(estimated["margin"] - measured["margin"])
    assert abs(estimated["error"]) > 1e-3
    # Positive supports: with it minus without it, in both.
    for one in (estimated, measured):
        assert one["margin_change"] == pytest.approx(seen["margin"] - one["margin"])
        change = seen["answer_log_probability"] - one["log_probability_change"]
        assert torch.tensor(one["probability"]).log() == pytest.approx(change, abs=1e-6)


def test_what_is_measured_without_a_demonstration_is_the_model_on_the_shorter_text(served, model):
    _, seen = served.ask("glance", {"text": TEXT, "answers": ANSWERS, "off": [1]})
    shorter = Prompt.from_text(TEXT).without([1])
    own = iclens.explain(model, shorter, answers=ANSWERS)
    measured = seen["without"]["measured"]
    for one, other in zip(measured["candidates"], own.candidates, strict=True):
        assert one["log_probability"] == pytest.approx(other.log_probability, abs=1e-5)
    rerun = iclens.explain(model, TEXT, answers=ANSWERS, rerun_text=True).sources[1].rerun_margin_change
    assert measured["margin_change"] == pytest.approx(rerun, abs=1e-5)


def test_a_chat_stays_the_chat_that_it_is_and_its_blocks_are_not_edited(chat, chatting):
    asked = {**chat.example, "off": [1]}
    status, seen = chat.ask("glance", asked)
    assert status == 200
    own = iclens.explain(chatting, CHAT, answers=ANSWERS)
    assert [token["text"] for token in seen["tokens"]] == [token.text for token in own.tokens]
    assert seen["margin"] == pytest.approx(own.margin, abs=1e-5)
    blocks = asked["demonstrations"]
    edits = [{"demonstrations": ["dog is vux .", *blocks[1:]]}, {"demonstrations": blocks[:1], "off": []}]
    for edit in (*edits, {"query": "it is dog is"}, {"instruction": "it is"}):
        status, found = chat.ask("glance", {**asked, **edit})
        assert status == 422
        assert found["error"].startswith("This prompt is a chat, whose messages cannot be edited")
    assert chat.ask("glance", asked) == (200, seen)


def test_all_demonstrations_may_be_off(served):
    status, seen = served.ask("glance", {"text": TEXT, "answers": ANSWERS, "off": [0, 1, 2]})
    assert status == 200
    assert seen["without"]["measured"]["probability"] < seen["probability"]


def test_two_prompts_at_once_do_not_mix(served):
    others = [
        {"text": TEXT, "answers": ANSWERS},
        {"text": TEXT.replace("vux", "blick"), "answers": ["blick", "nef"]},
        {"text": "saw is zup .\n\ncat is nef .\n\nhammer is", "answers": ["zup", "nef"], "off": [0]},
    ]
    alone = [served.ask("glance", document) for document in others]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda i: served.ask(["glance", "explain"][i % 2], others[i // 2]), range(6)))
    for i, (status, found) in enumerate(together):
        _, expected = alone[i // 2]
        assert status == 200
        assert found["margin"] == expected["margin"]
        assert [c["text"] for c in found["candidates"]] == [c["text"] for c in expected["candidates"]]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"text": "only a query"}, "at least one"),
        ({"text": TEXT, "answers": ["nosuchword"]}, "unknown to the tokenizer"),
        ({"text": TEXT, "answers": ["vux", "vux"]}, "given twice"),
        ({"text": "cat is vux .\n\n" * 60 + "dog is"}, "context holds 128"),
        ("{not JSON", "not JSON"),
        ("[" * 100_000, "JSON"),
        (b'"\xff"', "JSON"),
        ("NaN", "no JSON object"),
    ],
)
def test_what_cannot_be_answered_is_one_sentence(served, document, said):
    status, found = served.ask("glance", document)
    assert status == 422
    assert said in found["error"]
    assert "\n" not in found["error"]
    assert found["error"][0].isupper() or not found["error"][0].isalpha()


def test_questions_are_json_and_short(served):
    assert served.request("POST", "/api/glance", "text=x", Content_Type="text/plain")[0] == 415
    status, found = served.ask("glance", {"text": "x" * 1_100_000})
    assert status == 413
    assert "shorten" in found["error"]
    assert served.request("GET", "/api/glance")[0] == 405


def test_only_its_own_pages_are_answered(served):
    body = json.dumps({"text": TEXT})
    own = served.address.rstrip("/")
    for headers, status in [
        ({}, 200),
        ({"Origin": own}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": f"http://127.0.0.1:{served.port + 1}"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": f"evil.example:{served.port}", "Origin": f"http://evil.example:{served.port}"}, 403),
        ({"Host": "192.168.0.7"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": f"localhost:{served.port}"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
    ]:
        found, answered, _ = served.request("POST", "/api/glance", body, Content_Type="application/json", **headers)
        assert found == status, headers
        assert "Access-Control-Allow-Origin" not in answered
    assert served.request("GET", "/", Host="evil.example")[0] == 403


def test_loopback_is_told_from_the_rest():
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "192.168.0.7", "localhost.evil.example", ""))


def test_the_page_loads_nothing_from_outside(served):
    for path in ("/", "/explorer.js", "/explorer.css"):
        status, headers, text = served.request("GET", path)
        assert status == 200
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert headers["x-content-type-options"] == "nosniff"
        # The name of the vector graphics' namespace is no address that is fetched.
        addresses = set(re.findall(r"https?://[^\s\"'`)]+", text)) - {"http://www.w3.org/2000/svg"}
        assert addresses == set()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)
    _, _, text = served.request("GET", "/")
    assert not re.search(r"<script(?![^>]*(src=\"explorer\.js\"|type=\"application/json\"))", text)
    assert not re.search(r"<style|\sstyle=|\son\w+=", text)


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \u202e is vux ."


def test_a_hostile_prompt_stays_text_in_a_saved_page(served):
    document = {"demonstrations": [HOSTILE, "dog is vux ."], "query": "</script><b>horse is", "answers": ANSWERS}
    status, _, text = served.request("POST", "/api/save", json.dumps(document), Content_Type="application/json")
    assert status == 200
    assert "<img" not in text
    assert text.count("<script") == text.count("</script>") == 2
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])
    assert data["ask"]["demonstrations"][0] == HOSTILE


def test_a_saved_page_holds_the_numbers_to_six_digits(served):
    document = {"text": TEXT, "answers": ANSWERS, "off": [1]}
    _, _, text = served.request("POST", "/api/save", json.dumps(document), Content_Type="application/json")
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])
    _, seen = served.ask("glance", document)
    _, whole = served.ask("explain", document)
    assert without_cost(data["explanation"]) == page.rounded(without_cost(whole))
    shown = page.rounded(seen)
    totals = data["glance"].pop("maps")["influence"]
    each = torch.tensor([one["maps"]["influence"] for one in whole["sources"]])
    torch.testing.assert_close(torch.tensor(totals), each.sum(0), rtol=1e-4, atol=1e-5)
    assert data["glance"] == {name: shown[name] for name in data["glance"]}
    # What the page shows at once is in the explanation, too, whose notes say more.
    assert set(shown["notes"]) <= set(data["explanation"]["notes"])
    for name in set(shown) - set(data["glance"]) - {"tokens", "sources", "notes", "ways", "refined"}:
        assert data["explanation"][name] == shown[name], name
    assert len(data["heads"]) == 8
    assert data["heads"]["3,0"] == page.rounded(served.ask("head", {**document, "layer": 3, "head": 0})[1])


def test_rounding_keeps_six_digits():
    assert page.rounded({"a": [1.23456789e-9, 2, "x", None, True]}) == {"a": [1.23457e-9, 2, "x", None, True]}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"port": 70_000}, "between 0 and 65535"),
        ({"host": "no.such.host.invalid"}, "no address of this machine"),
        ({"model": "no/such/folder", "port": 0}, "no folder"),
    ],
)
def test_the_command_refuses_what_it_cannot_serve(options, said):
    with pytest.raises(iclens.UserError, match=said):
        Explore(**options).run()


def test_a_port_that_is_taken_is_named(served):
    with pytest.raises(iclens.UserError, match=f"port {served.port}.*--port"):
        Explore(port=served.port).run()


def test_other_hosts_are_warned_about(monkeypatch, capsys, served):
    asked = {}
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: asked.update(app=self.config.app))
    assert Explore(host="0.0.0.0", port=0).run() == 0
    found = capsys.readouterr()
    assert "http://127.0.0.1:" in found.out
    assert "no password" in found.err
    assert Explore(port=0).run() == 0
    assert "no password" not in capsys.readouterr().err


def test_an_example_of_ours_that_the_model_refuses_keeps_no_page_from_opening(monkeypatch, tmp_path):
    build("llama").save_pretrained(tmp_path)
    # Of the words of the example this tokenizer knows none.
    tokenizer().save_pretrained(tmp_path)
    asked = {}
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: asked.update(app=self.config.app))
    assert Explore(model=str(tmp_path), port=0).run() == 0
    assert asked
    (tmp_path / "prompt.txt").write_text("w1 is w2\n\n" * 60 + "w3 is")
    with pytest.raises(iclens.UserError, match="context holds 128"):
        Explore(model=str(tmp_path), prompt=tmp_path / "prompt.txt", port=0).run()


def test_numbers_that_are_not_finite_are_refused(served, model):
    weight = model.model.transformer.ln_f.weight
    before = weight.detach().clone()
    try:
        weight.data.fill_(torch.nan)
        # A question that was answered before is answered from its lens.
        status, found = served.ask("glance", {"text": "zup " + TEXT, "answers": ANSWERS})
    finally:
        weight.data.copy_(before)
    assert status == 422
    assert "not finite" in found["error"]


def test_a_model_that_fails_is_one_sentence_and_the_next_question_is_answered(served, model, monkeypatch):
    asked = {"text": "nef " + TEXT, "answers": ANSWERS}

    def out_of_memory(*arguments, **options):
        raise RuntimeError("not enough memory: you tried to allocate 9 bytes.\n  at line 3\n")

    with monkeypatch.context() as patched:
        patched.setattr(type(model.model), "forward", out_of_memory)
        status, found = served.ask("glance", asked)
    assert status == 500
    assert found == {"error": "The model failed: not enough memory: you tried to allocate 9 bytes."}
    assert served.ask("glance", asked)[0] == 200
