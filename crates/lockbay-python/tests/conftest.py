"""What every test gets: a store of its own, on SQLite and on Redis, and instances on it.

The Redis server is a real one, started once for all tests on a free port. Nothing here waits for
time to pass: `until` waits for a condition, and says which one did not come true.
"""

import asyncio
import inspect
import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, AsyncIterator, Awaitable, Callable, Iterator

import lockbay
import pytest
from lockbay import Job, LockBay

# Where the package is, installed or beside the crate: what a test starts has the same.
PACKAGE = Path(lockbay.__file__).resolve().parents[1]
NAMESPACES = itertools.count()

# What a test opens is closed again, and need not be polite to what still runs.
QUICK = {"shutdown_grace": "500ms"}


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("LOCKBAY_", "REDIS_", "SAGA_", "ADVANCED_")):
            monkeypatch.delenv(name)


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


@pytest.fixture(scope="session")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    server = shutil.which("redis-server")
    assert server, "redis-server is not installed"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    directory = tmp_path_factory.mktemp("redis")
    options = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory)]
    options += ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
    options += ["--maxmemory-policy", "noeviction"]
    process = subprocess.Popen([server, *options], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not answers(port):
            assert process.poll() is None and time.monotonic() < deadline, "Redis did not start"
            time.sleep(0.01)
        yield port
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store."""
    return request.getfixturevalue(f"{request.param}_store")


@pytest.fixture
def sqlite_store(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path}/lockbay.db"


@pytest.fixture
def redis_store(redis_port: int) -> str:
    return f"redis://127.0.0.1:{redis_port}/0?namespace=test{next(NAMESPACES)}"


@pytest.fixture
def memory_store() -> str:
    return "memory:"


@pytest.fixture(params=["sqlite", "redis", "memory"])
async def bay(request: pytest.FixtureRequest) -> AsyncIterator[LockBay]:
    """An instance on each store. In memory, calls do not leave the thread of the loop."""
    url = request.getfixturevalue(f"{request.param}_store")
    async with LockBay.open(url, **QUICK) as bay:
        yield bay


@pytest.fixture
async def leading(bay: LockBay) -> LockBay:
    """The same, and it leads."""
    await until(bay.is_leader)
    return bay


@pytest.fixture
async def sqlite_bay(sqlite_store: str) -> AsyncIterator[LockBay]:
    """An instance where the kind of the store makes no difference."""
    async with LockBay.open(sqlite_store, **QUICK) as bay:
        yield bay


@pytest.fixture
async def guide(store: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LockBay]:
    """The instance that the guide's modules share, fresh, and to be opened on the store."""
    names = ("lockbay.services", "lockbay.utils", "lockbay._process", "config")
    for name in list(sys.modules):
        if name.startswith(names):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("LOCKBAY_STORE", store)
    monkeypatch.setenv("LOCKBAY_SHUTDOWN_GRACE", QUICK["shutdown_grace"])
    from lockbay._process import bay

    yield bay
    await bay.close()


class Hanging:
    """A handler that goes on until it is cancelled."""

    def __init__(self) -> None:
        self.running = asyncio.Event()
        self.cancelled = False

    async def __call__(self, job: Job) -> None:
        self.running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


async def until(
    condition: Callable[[], Any | Awaitable[Any]], within: float = 20.0
) -> Any:
    """Waits for a condition to be true, and gives what it gave."""
    deadline = time.monotonic() + within
    while True:
        given = condition()
        given = await given if inspect.isawaitable(given) else given
        if given:
            return given
        if time.monotonic() > deadline:
            source = inspect.getsource(condition) if inspect.isfunction(condition) else condition
            raise AssertionError(f"this did not come true within {within} s: {source}")
        await asyncio.sleep(0.01)


def run_python(
    code: str, *arguments: str, within: float = 60.0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a program in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE), **environment}
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=within,
    )
