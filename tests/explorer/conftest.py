"""A server of the bundled model on a free port, as `iclens explore` runs it."""

import http.client
import json
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import torch
import uvicorn

from iclens.explorer.app import build_app
from iclens.explorer.opening import opening
from iclens.lens.model.loading import load


@pytest.fixture(scope="session")
def model():
    return load("bundled", dtype=torch.float32)


@pytest.fixture(scope="session")
def example():
    return opening("bundled")


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
