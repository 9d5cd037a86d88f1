"""What the tests with several processes share: stores that processes share, and workers.

A worker is a script of this directory that takes orders as lines of JSON on its standard input and
answers them on its standard output; see `crash_worker.py`. Nothing here knows what it is asked.
"""

from __future__ import annotations

import contextlib
import json
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


class Died(Exception):
    """A worker ended before it had answered."""


class Worker:
    """A process of a test, until `with` is left. Several threads may ask it at once."""

    def __init__(self, script: str, *arguments: object) -> None:
        command = [sys.executable, str(HERE / script), *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._lock = threading.Lock()
        # `None` once it has ended; 0 is that it is open.
        self._waiting: dict[int, queue.Queue[dict[str, Any] | None]] | None = {0: queue.Queue()}
        self._told = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            # What is cut off was said by one that died.
            for line in (line for line in lines if line.endswith("\n")):
                said = json.loads(line)
                with self._lock:
                    assert self._waiting is not None
                    waiting = self._waiting[said["call"]]
                waiting.put(said)
        with self._lock:
            waiting_still, self._waiting = self._waiting, None
        for nobody in (waiting_still or {}).values():
            nobody.put(None)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.kill()

    def opened(self, patience: float = PATIENCE) -> Worker:
        """Waits until it is ready for orders."""
        self.hear(0, patience)
        return self

    def tell(self, order: str, /, **given: Any) -> int:
        """Gives it an order, whose answer is to be heard under this number."""
        assert self.process.stdin is not None
        with self._lock:
            if self._waiting is None:
                raise Died(self.process.args)
            self._told += 1
            self._waiting[self._told] = queue.Queue()
            line = json.dumps([self._told, order, given])
            try:
                self.process.stdin.write(line + "\n")
                self.process.stdin.flush()
            except (OSError, ValueError):  # its end of the pipe is closed, or ours
                raise Died(self.process.args) from None
            return self._told

    def hear(self, number: int, patience: float = PATIENCE) -> Any:
        """The answer of this number."""
        with self._lock:
            if self._waiting is None:
                raise Died(self.process.args)
            waiting = self._waiting[number]
        try:
            said = waiting.get(timeout=patience)
        except queue.Empty:
            raise AssertionError(f"no answer of {self.process.args!r}") from None
        if said is None:
            raise Died(self.process.args)
        if "error" in said:
            raise AssertionError(f"{self.process.args!r}: {said['error']}")
        return said["answer"]

    def ask(self, order: str, /, **given: Any) -> Any:
        """Gives it an order and waits for the answer."""
        return self.hear(self.tell(order, **given))

    def kill(self) -> None:
        """Kills it, as a machine does that is out of memory."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            with self._lock, contextlib.suppress(OSError):
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


def notes(path: Path) -> list[dict[str, Any]]:
    """What was written down so far."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
