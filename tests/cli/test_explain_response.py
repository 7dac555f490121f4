"""`iclens explain` of a response: given, read from a file, or written by the model; a part, or against another."""

import shlex

import pytest

from iclens import Explanation
from iclens.cli.main import main

RESPONSE = "blick . grape is vux . wrench is nef ."


def explained(tmp_path, *options):
    assert main(["explain", *options, "--json", str(tmp_path / "e.json")]) == 0
    return Explanation.load(tmp_path / "e.json")


def test_a_part_of_a_response_rests_on_its_own_demonstrations(tmp_path, capsys):
    found = explained(tmp_path, "--response", RESPONSE, "--statement", "vux", "--html", str(tmp_path / "e.html"))
    best = sorted(found.sources, key=lambda effect: -effect.scores["influence"])[:3]
    assert all("vux" in effect.text for effect in best)
    output = capsys.readouterr().out
    assert "Log-probability" in output
    assert "logit difference" not in output.lower()
    assert "vux" in (tmp_path / "e.html").read_text()
    (tmp_path / "response.txt").write_text(RESPONSE + "\n")
    again = explained(tmp_path, "--response-file", str(tmp_path / "response.txt"), "--statement", "vux")
    assert again.response == found.response


@pytest.mark.parametrize("seed", [(), ("--seed", "3")])
def test_the_command_that_is_shown_writes_the_same_response_again(tmp_path, seed):
    found = explained(tmp_path, "--generate", "5", *seed, "--measure", "logit")
    again = explained(tmp_path, *shlex.split(found.command)[2:])
    assert again.response == found.response
    assert len(again.response.tokens) <= 5


def test_a_foil_is_subtracted(tmp_path):
    one, two = (explained(tmp_path, "--response", text) for text in ("blick .", "nef ."))
    both = explained(tmp_path, "--response", "blick .", "--foil", "nef .")
    assert both.margin == pytest.approx(one.margin - two.margin, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--response", "vux", "--response-file", "r.txt"), "both given"),
        (("--response-file", "nowhere.txt"), "nowhere.txt cannot be read"),
        (("--response", "vux", "--answers", "vux"), "not both"),
        (("--statement", "vux"), "is for a response"),
        (("--batch", "p.jsonl", "--out", "o.parquet", "--response", "vux"), "--response is for one prompt"),
    ],
)
def test_contradictions_are_refused_in_a_sentence(options, message, capsys):
    assert main(["explain", *options]) == 2
    assert message in capsys.readouterr().err
