"""The server's routes: the page, its script and style, and the numbers as JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from iclens.errors import UserError
from iclens.explorer import gallery_view, page
from iclens.explorer.ask import Ask
from iclens.explorer.glance import explanation, glance
from iclens.explorer.guard import PICTURE_POLICY, Guard
from iclens.explorer.head_view import head_view
from iclens.explorer.lab_ask import LabAsk
from iclens.explorer.lab_view import facts as lab_facts
from iclens.explorer.lab_view import lab_view, saved_lab
from iclens.explorer.layers_view import layers_view
from iclens.explorer.runs_view import Runs
from iclens.explorer.snapshot import question_snapshot
from iclens.explorer.splitting import split_anew
from iclens.explorer.viewed import Kept, Viewed
from iclens.explorer.writing import write
from iclens.lens import LensModel
from iclens.lens.building import SCORES
from iclens.lens.facts import METHODS
from iclens.lens.score_names import ScoreName

MOST_BYTES = 1_000_000
"""Largest question that is read."""

Asked = TypeVar("Asked")
View = Callable[[Viewed, Ask], dict[str, Any]]

_NAMES = [asdict(ScoreName.of(score)) for score in METHODS]
"""What the scores are called that the page may ask for."""

VIEWS: dict[str, View] = {"glance": glance, "explain": explanation, "head": head_view, "layers": layers_view}


def build_app(
    lens_model: LensModel,
    example: dict[str, Any] | None = None,
    names: Iterable[str] = (),
    loopback: bool = True,
    store: Path = Path("iclens-runs"),
    gallery: Path = Path("iclens-out/gallery"),
    ready: Sequence[Mapping[str, Any]] = (),
) -> Starlette:
    """The application of one model.

    Questions hold everything that their answer depends on, and the same question gets the same numbers, so users do not
    mix; the lenses of the last few are kept, so that the views of one edit share its passes. The model answers one at a
    time, and skips a question whose asker has gone.

    Args:
        lens_model: the model, which is only read.
        example: the question that the page opens with.
        names: further names under which the server may be reached.
        loopback: True when it listens on this machine alone.
        store: the store of runs that the page shows.
        gallery: the folder of reproductions that it shows.
        ready: the prompts that the page offers, from `offered`.
    """
    model_turn, files_turn, lab_turn = asyncio.Lock(), asyncio.Lock(), asyncio.Lock()
    runs = Runs(store)
    facts, lenses = _facts(lens_model), Kept(lens_model)

    def read_ask(document: Any) -> Ask:
        return Ask.read(document, lens_model.tokenizer)

    async def home(request: Request) -> Response:
        opened = {"mode": "live", "model": facts, "example": example, "lab": lab_facts()}
        return HTMLResponse(page.served({**opened, "scores": SCORES, "score_names": _NAMES, "ready": list(ready)}))

    async def asked(
        request: Request, read: Callable[[Any], Asked], work: Callable[[Asked], Response], turn: asyncio.Lock
    ) -> Response:
        if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
            return _refused("The question must be JSON (Content-Type: application/json).", 415)
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BYTES:
                return _refused(f"The question is longer than {MOST_BYTES:,} bytes: shorten the prompt.", 413)
        try:
            question = read(json.loads(body))
            async with turn:
                if await request.is_disconnected():
                    return Response(status_code=204)
                return await run_in_threadpool(work, question)
        except UserError as error:
            return _refused(_sentence(str(error)), 422)
        except (ValueError, RecursionError) as error:
            return _refused(f"The question is not JSON that can be read ({error}).", 422)
        except (RuntimeError, MemoryError) as error:
            return _refused(f"The model failed: {_first_line(error)}", 500)

    def numbers(view: View) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            return await asked(request, read_ask, lambda ask: _json(view(lenses.of(ask), ask)), model_turn)

        return answer

    def kept(view: Callable[[Any], dict[str, Any]]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            return await asked(request, dict, lambda question: _json(view(question)), files_turn)

        return answer

    def picture(request: Request) -> Response:
        content = gallery_view.picture(gallery, request.path_params["name"], request.path_params["file"])
        if content is None:
            return _refused("There is no such picture.", 404)
        return Response(content, media_type="image/svg+xml", headers={"Content-Security-Policy": PICTURE_POLICY})

    async def save(request: Request) -> Response:
        def work(ask: Ask) -> Response:
            return HTMLResponse(page.saved(question_snapshot(lenses.of(ask), ask)))

        return await asked(request, read_ask, work, model_turn)

    async def write_response(request: Request) -> Response:
        # The model's tokens are drawn in its turn; what is asked is read there, too.
        return await asked(request, dict, lambda question: _json(write(lens_model, question)), model_turn)

    async def split(request: Request) -> Response:
        def read(document: Any) -> Ask:
            return split_anew(document, lens_model.tokenizer)

        return await asked(request, read, lambda ask: _json(ask.to_document()), files_turn)

    async def lab(request: Request) -> Response:
        return await asked(request, LabAsk.read, lambda ask: _json(lab_view(ask)), lab_turn)

    async def save_lab(request: Request) -> Response:
        return await asked(request, LabAsk.read, lambda ask: HTMLResponse(page.saved(saved_lab(ask, facts))), lab_turn)

    routes = [
        Route("/", home),
        Route("/explorer.js", lambda request: Response(page.script(), media_type="text/javascript")),
        Route("/explorer.css", lambda request: Response(page.style(), media_type="text/css")),
        *(Route(f"/api/{name}", numbers(view), methods=["POST"]) for name, view in VIEWS.items()),
        Route("/api/write", write_response, methods=["POST"]),
        Route("/api/split", split, methods=["POST"]),
        Route("/api/save", save, methods=["POST"]),
        Route("/api/lab", lab, methods=["POST"]),
        Route("/api/lab-save", save_lab, methods=["POST"]),
        Route("/api/runs", kept(runs.listing), methods=["POST"]),
        Route("/api/curves", kept(runs.curves), methods=["POST"]),
        Route("/api/panels", kept(runs.panels), methods=["POST"]),
        Route("/api/gallery", kept(lambda _: gallery_view.gallery_view(gallery)), methods=["POST"]),
        Route("/gallery/{name}/{file}", picture),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, names=names, loopback=loopback)])


def _facts(lens_model: LensModel) -> dict[str, Any]:
    """What the page says of the model."""
    return {name: getattr(lens_model, name) for name in ("name", "n_layers", "n_heads")}


def _json(document: dict[str, Any], status: int = 200) -> Response:
    try:
        text = json.dumps(document, allow_nan=False)
    except ValueError:
        raise UserError("the model's numbers for this prompt are not finite: there is nothing to explain.") from None
    return Response(text, status, media_type="application/json")


def _refused(sentence: str, status: int) -> Response:
    return _json({"error": sentence}, status)


def _sentence(text: str) -> str:
    return text[:1].upper() + " ".join(text.split())[1:]


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
