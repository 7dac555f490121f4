"""The server's routes: the page, its script and style, and the numbers as JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from iclens.errors import UserError
from iclens.explorer import page
from iclens.explorer.ask import Ask
from iclens.explorer.glance import explanation, glance
from iclens.explorer.guard import Guard
from iclens.explorer.head_view import head_view
from iclens.explorer.layers_view import layers_view
from iclens.explorer.snapshot import snapshot
from iclens.lens.loading import LensModel

MOST_BYTES = 1_000_000
"""Largest question that is read."""

View = Callable[[LensModel, Ask], dict[str, Any]]

VIEWS: dict[str, View] = {"glance": glance, "explain": explanation, "head": head_view, "layers": layers_view}


def build_app(
    lens_model: LensModel, example: dict[str, Any] | None = None, names: Iterable[str] = (), loopback: bool = True
) -> Starlette:
    """The application of one model.

    Questions hold everything that their answer depends on and nothing is kept between them, so users do not mix; the
    model answers one at a time, and skips a question whose asker has gone.

    Args:
        lens_model: the model, which is only read.
        example: the question that the page opens with.
        names: further names under which the server may be reached.
        loopback: True when it listens on this machine alone.
    """
    turn = asyncio.Lock()
    facts = {
        "name": lens_model.name,
        "family": lens_model.family.name,
        "n_layers": lens_model.n_layers,
        "n_heads": lens_model.n_heads,
        "n_parameters": lens_model.n_parameters,
        "context_length": lens_model.context_length,
    }

    async def home(request: Request) -> Response:
        return HTMLResponse(page.served({"mode": "live", "model": facts, "example": example}))

    async def asked(request: Request, work: Callable[[Ask], Response]) -> Response:
        if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
            return _refused("The question must be JSON (Content-Type: application/json).", 415)
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BYTES:
                return _refused(f"The question is longer than {MOST_BYTES:,} bytes: shorten the prompt.", 413)
        try:
            ask = Ask.read(json.loads(body))
            async with turn:
                if await request.is_disconnected():
                    return Response(status_code=204)
                return await run_in_threadpool(work, ask)
        except UserError as error:
            return _refused(_sentence(str(error)), 422)
        except (ValueError, RecursionError) as error:
            return _refused(f"The question is not JSON that can be read ({error}).", 422)
        except (RuntimeError, MemoryError) as error:
            return _refused(f"The model failed: {_first_line(error)}", 500)

    def numbers(view: View) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            return await asked(request, lambda ask: _json(view(lens_model, ask)))

        return answer

    async def save(request: Request) -> Response:
        def work(ask: Ask) -> Response:
            return HTMLResponse(page.saved(snapshot(lens_model, ask, facts)))

        return await asked(request, work)

    routes = [
        Route("/", home),
        Route("/explorer.js", lambda request: Response(page.script(), media_type="text/javascript")),
        Route("/explorer.css", lambda request: Response(page.style(), media_type="text/css")),
        *(Route(f"/api/{name}", numbers(view), methods=["POST"]) for name, view in VIEWS.items()),
        Route("/api/save", save, methods=["POST"]),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, names=names, loopback=loopback)])


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
