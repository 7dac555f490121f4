"""Where windows or chunks hide demonstrations from the read-out, a note says which it sees, and in which layers."""

from __future__ import annotations

import pytest
import torch
from tests.lens.many_prompts import PROMPTS, reader
from tests.lens.zoo import GROUPS, lens, tokens, traced

from iclens.lens.explaining import explain, explain_many
from iclens.lens.read.margin import Readout
from iclens.lens.read.sight import sight_notes

LAST = Readout(((23, 5, 1.0),))


def notes(name: str, groups: torch.Tensor = GROUPS, readout: Readout = LAST) -> tuple[str, ...]:
    return sight_notes(traced(lens(name), tokens(24), readout), 0, groups, int(groups.max()) + 1)


def test_a_model_that_sees_everything_needs_no_note() -> None:
    assert notes("llama") == notes("gpt2") == ()


def test_a_window_in_every_layer() -> None:
    """A window of 7 reaches from token 23 back to token 17, the second of the two of demonstration 3."""
    (note,) = notes("mistral-window")
    assert note.startswith("In layers 0–2 (of 3, counted from 0) the read-out's window of attention holds only a part")
    assert "only a part of demonstration 3: all others have no direct effect there" in note


def test_windows_in_some_layers_and_what_they_hold() -> None:
    """In gemma3's first and third layer."""
    groups = torch.where(torch.arange(24) >= 20, -1, torch.arange(24) // 3)
    (note,) = notes("gemma3_text", groups)
    assert note.startswith("In layers 0, 2 (of 3")
    assert "holds only demonstration 6 and a part of demonstration 5: all others" in note
    # Read at token 20 too, the window reaches further.
    (earlier,) = notes("gemma3_text", groups, Readout(((20, 5, 1.0), (23, 5, 1.0))))
    assert "holds only demonstrations 5–6 and a part of demonstration 4: all" in earlier


def test_a_chunk_that_begins_with_the_query_holds_no_demonstration() -> None:
    """With chunks of 7, token 23 sees tokens 21, 22 and 23."""
    (note,) = notes("llama4_text")
    assert "In layers 0, 2 (of 3, counted from 0)" in note
    assert "holds no demonstration: they have no direct effect there" in note


@pytest.mark.parametrize("name", ["mistral-window", "llama4_text"])
def test_what_the_note_hides_has_no_direct_effect(name: str) -> None:
    found = explain(reader(name), PROMPTS[1])
    assert any("window of attention" in note for note in found.notes)
    seen = [any(heads) for heads in found.sources[0].by_layer_and_head]
    assert seen == ([False, False, False] if name == "mistral-window" else [False, True, False])


def test_prompts_side_by_side_have_their_own_notes() -> None:
    model = reader("mistral-window")
    together = list(explain_many(model, PROMPTS))
    alone = [explain(model, prompt) for prompt in PROMPTS]
    assert [one.notes for one in together] == [one.notes for one in alone]
    assert len({one.notes for one in together}) > 1
