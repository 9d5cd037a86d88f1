"""Real servers with four workers on one SQLite file: each of them opens LockBay and is healthy."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from conditions import eventually

WORKERS = 4
UVICORN = ["uvicorn", "fastapi_app:app", "--host=127.0.0.1", f"--workers={WORKERS}"]
GUNICORN = ["gunicorn", "flask_app:app", "--preload", f"--workers={WORKERS}", "--threads=2"]


class Server:
    """A server and what it answers."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process, self.address = process, f"http://127.0.0.1:{port}"

    def ask(self, path: str, method: str = "GET") -> tuple[int, str, Any]:
        """Status, worker and document."""
        request = urllib.request.Request(self.address + path, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return reply.status, reply.headers["X-Worker"], json.loads(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["X-Worker"], json.loads(error.read())

    def answers(self) -> bool:
        assert self.process.poll() is None, "the server has ended"
        try:
            self.ask("/api/advanced-state/health")
        except OSError:
            return False
        return True


@contextlib.contextmanager
def serve(command: list[str], directory: Path) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    if command[0] == "gunicorn":
        command = [*command, f"--bind=127.0.0.1:{port}", "--no-control-socket"]
    else:
        command = [*command, f"--port={port}"]
    here = str(Path(__file__).parent)
    environment = {**os.environ, "LOCKBAY_STORE": f"sqlite:{directory / 'lockbay.db'}"}
    environment["PYTHONPATH"] = os.pathsep.join([here, environment.get("PYTHONPATH", "")])
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], env=environment, stdout=log, stderr=log
        )
    try:
        server = Server(process, port)
        eventually("it answers", server.answers)
        yield server
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.parametrize("command", [UVICORN, GUNICORN], ids=["uvicorn", "gunicorn-preload"])
def test_every_worker_of_a_server_is_healthy_and_does_steps(
    command: list[str], tmp_path: Path
) -> None:
    with serve(command, tmp_path) as server, ThreadPoolExecutor(2 * WORKERS) as pool:

        def of_every_worker(path: str, method: str = "GET") -> dict[str, tuple[int, Any]]:
            answers: dict[str, tuple[int, Any]] = {}

            def ask() -> bool:
                numbers = range(2 * WORKERS)
                asked = [pool.submit(server.ask, path.format(n), method) for n in numbers]
                for status, worker, document in (answer.result() for answer in asked):
                    answers[worker] = (status, document)
                return len(answers) >= WORKERS

            eventually("every worker answers", ask)
            return answers

        healths = of_every_worker("/api/advanced-state/health")
        metrics = of_every_worker("/api/advanced-state/metrics")
        orders = of_every_worker("/orders/{}", "POST")
    log = (tmp_path / "log").read_text()
    for status, health in healths.values():
        assert (status, health["issues"]) == (200, []), log
    instances = {document["instance_id"] for _, document in metrics.values()}
    assert len(instances) == WORKERS, "each has an instance of its own"
    for status, order in orders.values():
        assert (status, order["status"]) == (200, "completed"), log
        assert order.get("is_forked", True)
    assert server.process.returncode in (0, -signal.SIGTERM), log
    assert "Traceback" not in log, log
