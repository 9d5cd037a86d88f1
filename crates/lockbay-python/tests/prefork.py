"""A master that forks workers and replaces those that die, as gunicorn does.

Started with a directory and a number of workers. The application is imported before the fork; each
worker opens LockBay after it, on one SQLite file, and has a job for every second that runs on the
leader alone. What a tick does is a line in `ticks`: its time and the worker. Who was elected is a
line in `leaders`. The master writes the worker's process ids to its standard output, a line each.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from lockbay import LockBay
from lockbay.integrations.apscheduler import LeaderAwareScheduler

DIRECTORY, WORKERS = Path(sys.argv[1]), int(sys.argv[2])


def append(name: str, line: str) -> None:
    """Adds a line in one write, so that no line of another is cut."""
    file = os.open(DIRECTORY / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, f"{line} {os.getpid()}\n".encode())
    finally:
        os.close(file)


def every_second(scheduled_time: datetime) -> None:
    append("ticks", scheduled_time.isoformat())


def elected(event: dict[str, Any]) -> None:
    append("leaders", str(event["term"]))


bay = LockBay(f"sqlite:{DIRECTORY / 'lockbay.db'}", instance_name="worker")
bay.on("leader_elected", elected)
scheduler = LeaderAwareScheduler(bay=bay)
scheduler.add_job(every_second, "interval", seconds=1, leader_only=True)


async def work() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    scheduler.start()
    async with bay:
        await stop.wait()
    scheduler.shutdown()


def fork() -> int:
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        asyncio.run(work())
        sys.exit(0)
    print(pid, flush=True)
    return pid


def main() -> None:
    stopping = False

    def stop(*_: Any) -> None:
        nonlocal stopping
        stopping = True
        for pid in list(workers):
            os.kill(pid, signal.SIGTERM)

    workers: set[int] = set()
    signal.signal(signal.SIGTERM, stop)
    workers.update(fork() for _ in range(WORKERS))
    while workers:
        pid, status = os.wait()
        workers.discard(pid)
        if stopping:
            if status != 0:
                sys.exit(f"worker {pid} did not end well: {status}")
        else:
            workers.add(fork())


if __name__ == "__main__":
    main()
