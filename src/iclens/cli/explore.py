"""`iclens explore`: a page in the browser that shows a prompt teaching a model."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from iclens.cli.output import note, say
from iclens.cli.prompt_options import OnePrompt, prompt_options
from iclens.cli.response_options import Responses
from iclens.cli.source_options import Sources
from iclens.cli.subcommand import command
from iclens.errors import UserError
from iclens.work.progress import stages


@command("explore")
@dataclass(frozen=True)
class Explore(OnePrompt):
    """Serve a page on this machine on which you edit a prompt and see at once what each part of it does.

    The page opens with a prompt of yours, in any form that `iclens explain` reads, or with an example. Ctrl-C ends it.

    Attributes:
        sources: what to score, if not demonstrations.
        responses: what to explain, if not an answer.
        seed: seed of the response that --generate draws; when left out, it is the likeliest.
        store: the store of runs to show.
        gallery: the folder of reproductions to show.
        port: port to listen on; 0 for any that is free.
        host: address to listen on; other than 127.0.0.1, others can use the model through the page.
        open: open the page in the browser.
        dtype: precision of the weights; float32 when left out; auto keeps the checkpoint's.
        device: where to compute, e.g. cpu or cuda.
    """

    sources: Annotated[Sources, tyro.conf.arg(name="")] = field(default_factory=Sources)
    responses: Annotated[Responses, tyro.conf.arg(name="")] = field(default_factory=Responses)
    seed: int | None = None
    store: Path = Path("iclens-runs")
    gallery: Path = Path("iclens-out/gallery")
    port: int = 8765
    host: str = "127.0.0.1"
    open: bool = False
    dtype: Literal["float32", "float64", "bfloat16", "float16", "auto"] | None = None
    device: str = "cpu"

    def run(self) -> int:
        """Load the model, answer the first question once, and serve until interrupted."""
        self.sources.check(None)
        path, response = self._file(), self.responses.arguments()
        listening = _listen(self.host, self.port)
        try:
            with stages("exploring") as stage:
                stage("loading the model")
                import uvicorn

                from iclens.explorer.app import build_app
                from iclens.explorer.guard import is_loopback
                from iclens.explorer.opening import opening, warm
                from iclens.explorer.ready import offered
                from iclens.explorer.writing import write
                from iclens.lens.model.loading import load

                lens_model = load(self.model, dtype=self.dtype, device=self.device)
                lens_model.require_causal()
                given = path is not None or self.sources.documents is not None
                prompt = self.sources.read(self, lens_model.tokenizer, path) if given else None
                example = opening(self.model, prompt, self.answers, bool(self.responses.given), **self._asked(response))
                if self.responses.generate is not None:
                    stage("writing a response")
                    written = write(lens_model, example, self.responses.generate, self.seed)
                    example["response"] = written["response"]
                stage("reading the first prompt")
                # The first pass of a process is slow; the first user should not wait for it. It also shows what is
                # wrong with the user's prompt before a page opens; what is wrong with ours, the page says.
                try:
                    warm(lens_model, example)
                except UserError:
                    if given or self.answers or self.answer or self.responses.given:
                        raise
            alone = is_loopback(self.host)
            names = (self.host, socket.gethostname())
            ready = offered(self.model, example, given or bool(self.answers or self.answer or self.responses.given))
            app = build_app(lens_model, example, names, alone, self.store, self.gallery, ready)
            address = _address(listening, self.host)
            say(f"Explore {self.model} at {address} (Ctrl-C ends it)")
            if not alone:
                note(
                    f"warning: whoever reaches {self.host}, port {listening.getsockname()[1]}, can use this model: no "
                    "password, no encryption. Leave out --host to keep it to this machine."
                )
            if self.open:
                import webbrowser

                webbrowser.open(address)
            server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))
            try:
                server.run(sockets=[listening])
            except KeyboardInterrupt:
                return 0
            return 0
        finally:
            listening.close()

    def _asked(self, response: dict[str, Any]) -> dict[str, Any]:
        """The question that the page opens with, beside its prompt and candidate answers."""
        told = {name: value for name, value in response.items() if name != "generate"}
        return told | {"answer": self.answer, "within": self.sources.within, "budget": self.sources.budget}

    def _file(self) -> Path | None:
        """The file that holds the prompt; None where documents do, or where the page opens with an example.

        Raises:
            UserError: two are given, or options that say how a prompt is written without one.
        """
        path = self.file(self.sources.documents)
        if path is None and self.sources.documents is None:
            untold = vars(prompt_options(Explore()))
            for name, value in vars(prompt_options(self)).items():
                if value != untold[name]:
                    flag = f"--{name.replace('_', '-')}"
                    raise UserError(f"{flag} says how a prompt is written: give --prompt FILE with it.")
        return path


def _listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address, before minutes of loading.

    Raises:
        UserError: the port is no port or taken, or the host is not of this machine.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port}: a port lies between 0 and 65535.")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise UserError(f"--host {host!r} is no address of this machine: 127.0.0.1 is this machine alone.") from None
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
    except OSError as error:
        listening.close()
        raise UserError(
            f"cannot listen on {host}, port {port}: {error.strerror}. Choose another with --port; 0 takes any free one."
        ) from None
    return listening


def _address(listening: socket.socket, host: str) -> str:
    port = listening.getsockname()[1]
    name = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"
