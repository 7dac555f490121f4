"""The notebook in the docs runs from top to bottom, and its numbers are what its words say."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "walkthrough.ipynb"


def key_numbers(scope):
    """What the words around the cells rely on."""
    explanation, changes = scope["explanation"], scope["changes"]
    # Dog and tiger are redundant: neither is missed alone, and without both nothing of the margin is left.
    return {
        "exact": explanation.exact,
        "answer": explanation.answer,
        "steps": sorted(effect.index for effect in explanation.ranked()[:2]),
        "alone": max(changes[(1,)], changes[(4,)]) / explanation.margin,
        "together": changes[(1, 4)] / explanation.margin,
        "head": float(scope["difference"]),
        "left": float(scope["trajectory"][-1] / scope["trajectory"][0]),
        "tables": all("<table" in scope[name]._repr_html_() for name in ("explanation", "dual")),
        "vacuous": float(scope["bounds"].printed.vacuous),
        "learnt": sum(loss for _, loss in scope["losses"][-20:]) / sum(loss for _, loss in scope["losses"][:20]),
        "error": scope["error"] / scope["errors"][10],
        "nearest": scope["found"].comparisons[0].spd.mean,
    }


def check(found):
    assert found["exact"]
    assert found["answer"] == "blick"
    assert found["steps"] == [1, 4]
    assert found["alone"] < 0.2
    assert found["together"] > 0.9
    assert found["head"] < 1e-5
    assert found["left"] < 1e-5
    assert found["tables"]
    assert found["vacuous"] == 1.0
    assert found["learnt"] < 0.9
    assert found["error"] > 1
    assert 0 < found["nearest"] < 1


def test_its_cells_run_and_its_numbers_are_right(monkeypatch):
    import matplotlib
    from matplotlib import pyplot

    before = matplotlib.get_backend()
    pyplot.switch_backend("agg")
    monkeypatch.setattr(pyplot, "show", lambda: pyplot.close("all"))
    scope = {"__name__": "walkthrough"}
    try:
        for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), scope)
    finally:
        pyplot.switch_backend(before)
    check(key_numbers(scope))


def test_no_output_is_stored_and_its_links_lead_somewhere():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(
        cell["outputs"] == [] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code"
    )
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    assert len(links) >= 6
    assert all((NOTEBOOK.parent / link).resolve().is_file() for link in links)


@pytest.mark.slow
# The kernel's transport opens sockets and event loops of its own, and is what warns here.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_kernel_runs_it_and_shows_what_displays_itself(monkeypatch):
    # The Makefile asks for pictures without a screen; a kernel shows them in the notebook unless it is told otherwise.
    monkeypatch.delenv("MPLBACKEND", raising=False)
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    shown = [output.data for output in outputs if output.output_type in ("execute_result", "display_data")]
    assert sum("<table" in data.get("text/html", "") for data in shown) == 2
    assert sum("image/png" in data for data in shown) == 2
    nbformat.validate(notebook)
