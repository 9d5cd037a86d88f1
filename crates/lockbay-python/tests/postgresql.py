"""A PostgreSQL of a test's own: a cluster in a temporary directory, on a free port of loopback."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from conditions import eventually

SERVER = next(
    (str(path.parent) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))[::-1]),
    None,
) or (os.path.dirname(shutil.which("initdb") or "") or None)
"""Where its programs are; `None` where there are none."""


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """The part of its URL behind the scheme. It does not sync, which no test asks of it."""
    assert SERVER is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # It refuses to run as root.
    user = "postgres" if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="lockbay-postgresql-") as directory:
        if user is not None:
            of = pwd.getpwnam(user)
            os.chown(directory, of.pw_uid, of.pw_gid)
        yield from _serve(directory, user, port)


def _serve(directory: str, user: str | None, port: int) -> Iterator[str]:
    data = f"{directory}/cluster"
    make = [f"{SERVER}/initdb", "-D", data, "-A", "trust", "-U", "postgres", "-N"]
    subprocess.run(make, user=user, check=True, capture_output=True, cwd="/")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    command = [f"{SERVER}/postgres", "-D", data, *options.split()]
    with open(f"{directory}/log", "wb") as log:
        server = subprocess.Popen(command, user=user, stdout=log, stderr=log, cwd="/")
    try:
        ready = [f"{SERVER}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        eventually("PostgreSQL answers", lambda: subprocess.run(ready).returncode == 0)
        yield f"postgres@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # does not wait for clients
        server.wait()
