"""What the tests with several processes share: stores that processes share, and workers.

A worker is a script of this directory that takes orders as lines of JSON on its standard input and
answers them on its standard output; see `crash_worker.py`. Nothing here knows what it is asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

HERE = Path(__file__).parent
PATIENCE = 30.0
"""How long a test waits for a condition before it fails, in seconds."""
STORES = ["sqlite", "redis"]


def eventually(what: str, look: Callable[[], T | None], patience: float = PATIENCE) -> T:
    """Waits until there is something to see; fails, saying what was awaited, if it never comes."""
    until = time.monotonic() + patience
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > until:
            raise AssertionError(f"waited in vain: {what}")
        time.sleep(0.005)


@contextlib.contextmanager
def shared_store(kind: str, directory: Path) -> Iterator[str]:
    """The URL of a new store that several processes can open."""
    if kind == "sqlite":
        yield f"sqlite:{directory / 'lockbay.db'}"
    else:
        with redis_server(directory) as url:
            yield url


@contextlib.contextmanager
def redis_server(directory: Path) -> Iterator[str]:
    """A Redis server of one's own that syncs before it answers; gives its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    settings += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    with open(directory / "redis.log", "wb") as log:
        server = subprocess.Popen(["redis-server", *settings], stdout=log, stderr=log)
    try:
        eventually("Redis answers", lambda: _answers(server, port))
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def _answers(server: subprocess.Popen[bytes], port: int) -> bool:
    assert server.poll() is None, "redis-server has ended"
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


class Worker:
    """A process of a test, until `with` is left."""

    def __init__(self, script: str, *arguments: object) -> None:
        command = [sys.executable, str(HERE / script), *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answers: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._answers.put(line)
        self._answers.put(None)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.kill()

    def tell(self, order: str, **given: Any) -> None:
        """Gives it an order; its answer is the next `hear`."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"order": order, **given}) + "\n")
        self.process.stdin.flush()

    def hear(self, patience: float = PATIENCE) -> Any:
        """Its next answer."""
        try:
            line = self._answers.get(timeout=patience)
        except queue.Empty:
            raise AssertionError(f"worker {self.process.args} does not answer") from None
        assert line is not None, f"worker {self.process.args} has ended: {self.process.poll()}"
        answer = json.loads(line)
        if "error" in answer:
            raise AssertionError(f"worker {self.process.args}: {answer['error']}")
        return answer["answer"]

    def ask(self, order: str, **given: Any) -> Any:
        """Gives it an order and waits for the answer."""
        self.tell(order, **given)
        return self.hear()

    def kill(self) -> None:
        """Kills it, as a machine does that is out of memory."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()

    def freeze(self) -> None:
        """Stops it between two commits, because one that holds the lock of a SQLite file would hold
        up everybody."""
        eventually("it can be stopped without a lock", self._freeze)

    def _freeze(self) -> bool:
        self.process.send_signal(signal.SIGSTOP)
        eventually("it has stopped", lambda: _state(self.process.pid) == "T")
        if not _holds_a_lock(self.process.pid):
            return True
        self.thaw()
        return False

    def thaw(self) -> None:
        """Lets it go on."""
        self.process.send_signal(signal.SIGCONT)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def _holds_a_lock(pid: int) -> bool:
    locks = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return any(lock[1] == "POSIX" and lock[3] == "WRITE" and lock[4] == str(pid) for lock in locks)


def note(path: Path, **what: Any) -> None:
    """Adds a line to what several processes write down, whole."""
    line = json.dumps({"at": time.monotonic(), **what}) + "\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def notes(path: Path) -> list[dict[str, Any]]:
    """What was written down so far."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
