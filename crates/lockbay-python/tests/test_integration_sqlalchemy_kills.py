"""Processes that are killed between a commit of the application and the record of it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from lockbay import LockBay

from conditions import eventually, on_a_loop
from outbox_worker import payments
from outbox import cluster, database, engine, references


@contextlib.contextmanager
def worker(store: str, database: str, directory: Path, dies: str) -> Iterator[Any]:
    script = Path(__file__).with_name("outbox_worker.py")
    command = [sys.executable, str(script), store, database, str(directory), dies]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def finish(process: Any) -> None:
    """Waits until a worker has done what it has to, and ends it."""
    assert process.stdout.readline() == "done\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def paid_by(database: str) -> list[tuple[str, int]]:
    engine = sa.create_engine(database)
    with engine.connect() as connection:
        rows = connection.execute(sa.select(payments.c.reference, payments.c.worker))
        found = [(reference, worker) for reference, worker in rows]
    engine.dispose()
    return found


@on_a_loop
async def test_a_step_killed_between_its_commit_and_its_record_is_done_once(
    database: str, tmp_path: Path
) -> None:
    store = f"sqlite:{tmp_path / 'lockbay.db'}"
    with worker(store, database, tmp_path, "step") as first:
        assert first.wait(30) == -signal.SIGKILL
    assert paid_by(database) == [("order-1", first.pid)]
    bay = LockBay(store)
    await bay.start(take_part=False)
    (saga,), _ = await bay.sagas.list()
    (step,) = (await bay.sagas.get(saga["saga_id"]))["steps"]
    assert step["status"] != "completed"
    with worker(store, database, tmp_path, "step") as second:
        finish(second)
    done = await bay.sagas.get(saga["saga_id"])
    await bay.close()
    assert done["status"] == "completed"
    assert done["steps"][0]["result"] == {"paid_by": first.pid}, "as it was recorded"
    assert paid_by(database) == [("order-1", first.pid)]


def test_a_job_killed_between_its_commit_and_its_record_is_done_once(
    database: str, tmp_path: Path
) -> None:
    store = f"sqlite:{tmp_path / 'lockbay.db'}"
    with worker(store, database, tmp_path, "job") as first:
        assert first.wait(30) == -signal.SIGKILL
    with worker(store, database, tmp_path, "job") as second:
        finish(second)
    assert paid_by(database) == [("job", first.pid)]


def test_a_tick_killed_between_its_commit_and_its_record_is_done_once(
    database: str, tmp_path: Path
) -> None:
    store = f"sqlite:{tmp_path / 'lockbay.db'}"
    engine = sa.create_engine(database)
    with worker(store, database, tmp_path, "tick") as first:
        with worker(store, database, tmp_path, "tick") as second:
            both = (first, second)
            eventually("one is killed", lambda: any(it.poll() is not None for it in both))
            done = len(references(engine))
            eventually("the other goes on", lambda: len(references(engine)) >= done + 3)
            (left,) = (it for it in both if it.poll() is None)
            finish(left)
    ticks = references(engine)
    engine.dispose()
    seconds = sorted(ticks)
    assert len(set(ticks)) == len(ticks)
    assert seconds == ticks, "one after another"
