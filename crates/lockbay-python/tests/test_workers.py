"""Four forked workers share one SQLite file and a job that only their leader runs, every second.

Workers are killed, the leader among them, and replaced. Each tick is done once: none is missing
between the first and the last, also of those that were due while nobody led.

A worker is killed between two ticks, because a line in a plain file has no fence: one that is
killed after it wrote the line and before that is recorded would have it written again. How an
effect happens once even then is shown in `test_integration_sqlalchemy.py`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from conditions import PATIENCE, eventually

WORKERS = 4
LONG = bool(os.environ.get("LOCKBAY_LONG_TESTS"))


class Master:
    """The master, and what its workers write down."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        script = Path(__file__).with_name("prefork.py")
        command = [sys.executable, str(script), str(directory), str(WORKERS)]
        with open(directory / "workers", "wb") as out, open(directory / "log", "wb") as log:
            self.process = subprocess.Popen(command, stdout=out, stderr=log)

    def lines(self, name: str) -> list[list[str]]:
        path = self.directory / name
        text = path.read_text() if path.exists() else ""
        return [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def ticks(self) -> list[datetime]:
        return [datetime.fromisoformat(at) for at, _ in self.lines("ticks")]

    def leader(self) -> int:
        return int(eventually("a leader", lambda: self.lines("leaders"))[-1][1])

    def follower(self) -> int:
        (newest, *_) = (int(pid) for (pid,) in reversed(self.lines("workers")))
        others = [int(pid) for (pid,) in self.lines("workers") if int(pid) != self.leader()]
        return newest if newest in others else others[-1]

    def wait_for_tick(self, at: datetime) -> None:
        eventually(f"the tick of {at}", lambda: (self.ticks() or [at])[-1] > at or None)

    def kill(self, pid: int) -> None:
        """Kills a worker between two ticks."""
        eventually("the middle of a second", lambda: 0.4 < time.time() % 1 < 0.6 or None)
        os.kill(pid, signal.SIGKILL)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def log(self) -> str:
        return (self.directory / "log").read_text()


@pytest.mark.parametrize(
    ("seconds", "kills"),
    [
        (12, ["leader"]),
        pytest.param(
            60,
            ["leader", "follower"],
            marks=pytest.mark.skipif(not LONG, reason="runs with LOCKBAY_LONG_TESTS=1"),
        ),
    ],
)
def test_each_tick_is_done_once_while_workers_are_killed(
    tmp_path: Path, seconds: int, kills: list[str]
) -> None:
    master = Master(tmp_path)
    try:
        first = eventually("a tick", master.ticks)[0]
        last = first + timedelta(seconds=seconds)
        killed = []
        for number, whom in enumerate(kills, 1):
            master.wait_for_tick(first + timedelta(seconds=seconds * number // (len(kills) + 2)))
            pid = master.leader() if whom == "leader" else master.follower()
            master.kill(pid)
            killed.append((whom, pid))
        master.wait_for_tick(last)
        code = master.end()
    finally:
        if master.process.poll() is None:
            master.end()
    assert code == 0, master.log()
    ticks = master.ticks()
    due = [first + timedelta(seconds=n) for n in range(len(ticks))]
    leaders = [int(pid) for _, pid in master.lines("leaders")]
    replaced = [pid for (pid,) in master.lines("workers")][WORKERS:]
    print(
        f"{len(ticks)} ticks from {ticks[0]:%H:%M:%S} to {ticks[-1]:%H:%M:%S}, "
        f"{len(set(ticks))} different, {len(set(due) - set(ticks))} missing; killed {killed}, "
        f"forked instead {replaced}, leaders {leaders}"
    )
    assert ticks == due
    assert len(replaced) == len(kills)
    by_worker = {int(pid) for _, pid in master.lines("ticks")}
    assert len(by_worker) >= 2, "the job moved to another worker"
