"""The Python that gives the numbers of the Lab view."""

from __future__ import annotations

from iclens.explorer.lab_ask import LabAsk


def python(ask: LabAsk) -> str:
    """Python that answers the same query with the same regressor and estimators."""
    points = "".join(f"    ({x!r}, {y!r}),\n" for x, y in ask.points or ())
    features = "regressor_task().features" if ask.features == "waves" else "lambda x: torch.cat([x**0, x], -1)"
    return f"""import torch
from iclens.estimators import build_estimator
from iclens.matching import point_pulls
from iclens.tasks import PromptBatch
from iclens.training import load_regressor, regressor_task

torch.set_default_dtype(torch.float64)
points = torch.tensor([
{points}])
query = {ask.query!r}
inputs = torch.cat([points[:, :1], torch.tensor([[query]])])[None]
labels = torch.cat([points[:, 1:], torch.zeros(1, 1)])[None]
prompt = PromptBatch(inputs, labels, {{}})

split = point_pulls(load_regressor({ask.attention!r}), prompt)
print("model", split.answer.item())
print("pulls", split.pulls.flatten().tolist(), "rest", split.rest.item(), "residual", split.residual.item())

features = {features}
for name, options in {{
    "ridge": {{"alpha": {ask.alpha!r}, "features": features}},
    "least-squares": {{"features": features}},
    "nearest-neighbours": {{"n_neighbors": {ask.neighbours}}},
    "gradient-descent": {{"n_steps": {ask.steps}, "learning_rate": {ask.rate!r}, "features": features}},
}}.items():
    print(name, build_estimator(name, options).predict(prompt).item())
"""
