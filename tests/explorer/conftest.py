"""A server of the bundled model on a free port, as `iclens explore` runs it."""

import http.client
import json
import shutil
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import torch
import uvicorn

from iclens import bundled
from iclens.explorer.app import build_app
from iclens.explorer.opening import opening
from iclens.lens import Prompt, load


@pytest.fixture(scope="session")
def model():
    return load("bundled", dtype=torch.float32)


@pytest.fixture(scope="session")
def example():
    return opening("bundled")


@pytest.fixture(scope="session")
def chatting(tmp_path_factory):
    """The bundled model with a chat template of its words."""
    folder = tmp_path_factory.mktemp("models") / "chatting"
    shutil.copytree(bundled.path(), folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["chat_template"] = (
        "{% for m in messages %}{% if m.role == 'user' %}it is {% endif %}{{ m.content }} {% endfor %}{{ ending }}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return load(str(folder))


CHAT = [
    {"role": "user", "content": "cat is"},
    {"role": "assistant", "content": "vux ."},
    {"role": "user", "content": "plum is"},
    {"role": "assistant", "content": "nef ."},
    {"role": "user", "content": "horse is"},
]


@pytest.fixture
def chat(chatting):
    """A server of that model, whose page opens with a chat."""
    example = opening("chatting", Prompt.from_chat(CHAT, chatting.tokenizer), ("vux", "nef"))
    with serving(build_app(chatting, example)) as running:
        running.example = example
        yield running


class Served:
    """Requests to a running server."""

    def __init__(self, port):
        self.port = port
        self.address = f"http://127.0.0.1:{port}/"

    def request(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read().decode()
        finally:
            connection.close()

    def ask(self, view, document):
        body = document if isinstance(document, (str, bytes)) else json.dumps(document)
        status, _, text = self.request("POST", f"/api/{view}", body, Content_Type="application/json")
        return status, json.loads(text)


@contextmanager
def serving(app):
    """The application on a free port, while the block runs."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield Served(listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope="session")
def served(model, example):
    with serving(build_app(model, example)) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    from tests.explorer.browsing import launched

    with launched() as running:
        yield running
