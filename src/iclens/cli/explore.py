"""`iclens explore`: a page in the browser that shows a prompt teaching a model."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from iclens.cli.output import note, say
from iclens.cli.prompt_options import prompt_options
from iclens.cli.subcommand import command
from iclens.errors import UserError
from iclens.work.progress import stages


@command("explore")
@dataclass(frozen=True)
class Explore:
    r"""Serve a page on this machine in which a prompt can be edited, and what every demonstration does is seen at once.

    Ctrl-C ends it.

    Attributes:
        model: "bundled", "smollm2", a local folder, a .gguf file, or a hub name.
        prompt: the prompt to open with: plain text with blank lines between demonstrations and the query last.
        instruction: text to put before its demonstrations.
        instruction_blocks: how many of its first blocks are an instruction.
        template: how to write a pair, with {input} and {output}; \n is a line break.
        query: the new input to complete, where the file holds demonstrations alone.
        separator: what stands between its demonstrations, instead of blank lines; \n is a line break.
        template_args: arguments of the chat template, each key=value, e.g. enable_thinking=false.
        system_in_user: put a chat's system message before the first user message, where the template has no such role.
        answers: candidate answers to open with.
        store: the store of runs to show.
        gallery: the folder of reproductions to show.
        port: port to listen on; 0 for any that is free.
        host: address to listen on; other than 127.0.0.1, others can use the model through the page.
        open: open the page in the browser.
        dtype: precision of the weights; float32 when left out; auto keeps the checkpoint's.
        device: where to compute, e.g. cpu or cuda.
    """

    model: str = "bundled"
    prompt: Path | None = None
    instruction: str | None = None
    instruction_blocks: int = 0
    template: str | None = None
    query: str | None = None
    separator: str | None = None
    template_args: tuple[str, ...] = ()
    system_in_user: bool = False
    answers: tuple[str, ...] = ()
    store: Path = Path("iclens-runs")
    gallery: Path = Path("iclens-out/gallery")
    port: int = 8765
    host: str = "127.0.0.1"
    open: bool = False
    dtype: Literal["float32", "float64", "bfloat16", "float16", "auto"] | None = None
    device: str = "cpu"

    def run(self) -> int:
        """Load the model, answer the first question once, and serve until interrupted."""
        options = prompt_options(self)
        for name in vars(options).keys() & vars(self).keys() if self.prompt is None else ():
            if getattr(self, name) != getattr(Explore, name):
                raise UserError(f"--{name.replace('_', '-')} says how a prompt is written: give --prompt FILE with it.")
        listening = _listen(self.host, self.port)
        try:
            with stages("exploring") as stage:
                stage("loading the model")
                import uvicorn

                from iclens.explorer.app import VIEWS, build_app
                from iclens.explorer.ask import Ask
                from iclens.explorer.guard import is_loopback
                from iclens.explorer.opening import opening
                from iclens.explorer.viewed import Kept
                from iclens.lens.model.loading import load
                from iclens.lens.prompt import read_prompt

                lens_model = load(self.model, dtype=self.dtype, device=self.device)
                lens_model.require_causal()
                prompt = None
                if self.prompt is not None:
                    prompt = read_prompt(self.prompt, lens_model.tokenizer, **vars(options))
                example = opening(self.model, prompt, self.answers)
                stage("reading the first prompt")
                # The first pass of a process is slow; the first user should not wait for it. It also shows what is
                # wrong with the user's prompt before a page opens; what is wrong with ours, the page says.
                try:
                    viewed = Kept(lens_model).of(Ask.read(example, lens_model.tokenizer))
                    for name, view in VIEWS.items():
                        asked = {**example, "layer": 0, "head": 0} if name == "head" else example
                        view(viewed, Ask.read(asked, lens_model.tokenizer))
                except UserError:
                    if self.prompt is not None or self.answers:
                        raise
            alone = is_loopback(self.host)
            names = (self.host, socket.gethostname())
            app = build_app(lens_model, example, names, alone, self.store, self.gallery)
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
