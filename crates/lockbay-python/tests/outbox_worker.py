"""A worker of the tests of the outbox: an instance whose handlers write to another database.

Started with a LockBay store, the URL of that database, a directory, and where to die: in a `step`,
`tick` or `job`. It kills itself when its transaction is committed and LockBay does not know it yet,
once: whoever comes later finds the file `died`. When what it has to do is done it writes `done`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from lockbay import LockBay
from lockbay.integrations.apscheduler import LeaderAwareScheduler
from lockbay.services.saga_coordinator import SagaStepHandler
from lockbay.utils.atomic_transactions import atomic_transaction, configure

payments = sa.Table(
    "payments",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("reference", sa.String(200), nullable=False),
    sa.Column("worker", sa.Integer, nullable=False),
)


def die_once(directory: Path, where: str, dies: str) -> None:
    if where != dies:
        return
    try:
        os.close(os.open(directory / "died", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def pay(call: Any, reference: str) -> Any:
    with atomic_transaction(call) as effect:
        row = {"reference": reference, "worker": os.getpid()}
        effect.session.execute(payments.insert().values(row))
        effect.result = {"paid_by": os.getpid()}
    return effect.result


class Pay(SagaStepHandler):
    def __init__(self, directory: Path, dies: str) -> None:
        self.directory, self.dies = directory, dies

    def execute(self, parameters: Any, context: Any) -> Any:
        result = pay(context.step, parameters["reference"])
        die_once(self.directory, "step", self.dies)
        return result


async def main(store: str, database: str, directory: Path, dies: str) -> None:
    configure(sa.create_engine(database))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    bay = LockBay(store, leader_ttl="1s", session_ttl="1s", claim_ttl="1s")
    bay.register_handler("pay", Pay(directory, dies), spread=True)
    scheduler = LeaderAwareScheduler(bay=bay)

    def tick(tick: Any, scheduled_time: Any) -> None:
        pay(tick, scheduled_time.isoformat())
        die_once(directory, "tick", dies)

    if dies == "tick":
        scheduler.add_job(tick, "interval", seconds=1, id="pay", leader_only=True)
    scheduler.start()
    async with bay:
        if dies == "job":
            await bay.run_job("pay", "job", lambda job: job_of(job, directory), {"n": 1})
        if dies == "step":
            steps = [{"name": "pay", "parameters": {"reference": "order-1"}}]
            # The same saga for each worker.
            saga = await bay.sagas.start("order", steps, idempotency_key="order-1")
            await bay.sagas.wait(saga)
        print("done", flush=True)
        await stop.wait()
    scheduler.shutdown()


def job_of(job: Any, directory: Path) -> Any:
    result = pay(job, "job")
    die_once(directory, "job", "job")
    return result


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]))
