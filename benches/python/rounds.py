"""The rounds of compare.py: each measures one side for some seconds and says how often it got done."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pathlib
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Awaitable, Callable

import lockbay

IN_FLIGHT = 64


def say(**figures: Any) -> None:
    print(json.dumps(figures), flush=True)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Redis:
    """A server of our own, without persistence."""

    def __enter__(self) -> int:
        port = free_port()
        self.place = tempfile.TemporaryDirectory()
        options = ["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"]
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), *options]
        self.server = subprocess.Popen(
            command, cwd=self.place.name, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return port
            except ConnectionRefusedError:
                time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        self.server.terminate()
        self.server.wait()
        self.place.cleanup()


async def closed_loop(
    seconds: float, in_flight: int, operation: Callable[[str], Awaitable[object]]
) -> float:
    """Callers that make one operation after the other; how many a second."""
    done, end = 0, time.perf_counter() + seconds
    name = uuid.uuid4().hex

    async def caller(number: int) -> None:
        nonlocal done
        count = 0
        while time.perf_counter() < end:
            await operation(f"{name}-{number}-{count}")
            count += 1
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(in_flight)))
    return done / (time.perf_counter() - began)


def closed_threads(seconds: float, in_flight: int, operation: Callable[[str], object]) -> float:
    """The same with threads, for what only blocks."""
    done, lock, end = 0, threading.Lock(), time.perf_counter() + seconds
    name = uuid.uuid4().hex

    def caller(number: int) -> None:
        nonlocal done
        count = 0
        while time.perf_counter() < end:
            operation(f"{name}-{number}-{count}")
            count += 1
        with lock:
            done += count

    began = time.perf_counter()
    with ThreadPoolExecutor(in_flight) as pool:
        list(pool.map(caller, range(in_flight)))
    return done / (time.perf_counter() - began)


async def no_op(_job: lockbay.Job) -> None:
    return None


def our_jobs(store: str, seconds: float, in_flight: int, replay: bool) -> float:
    async def measure() -> float:
        async with lockbay.LockBay.open(store, monitoring=False) as bay:

            async def fresh(key: str) -> None:
                await bay.run_job("compare", key, no_op)

            async def again(_key: str) -> None:
                await bay.run_job("compare", "the same", no_op)

            return await closed_loop(seconds, in_flight, again if replay else fresh)

    return asyncio.run(measure())


def powertools_jobs(port: int, seconds: float, in_flight: int, replay: bool) -> float:
    from aws_lambda_powertools.utilities.idempotency import IdempotencyConfig, idempotent_function
    from aws_lambda_powertools.utilities.idempotency.persistence.redis import (
        RedisCachePersistenceLayer,
    )

    class Context:
        def get_remaining_time_in_millis(self) -> int:
            return 60_000

    config = IdempotencyConfig(expires_after_seconds=3_600)
    config.register_lambda_context(Context())
    layer = RedisCachePersistenceLayer(host="127.0.0.1", port=port, ssl=False)

    @idempotent_function(data_keyword_argument="order", config=config, persistence_store=layer)
    def handle(order: dict[str, str]) -> None:
        return None

    def fresh(key: str) -> None:
        handle(order={"key": key})

    def again(_key: str) -> None:
        handle(order={"key": "the same"})

    return closed_threads(seconds, in_flight, again if replay else fresh)


def compare_powertools(seconds: float, rounds: int) -> None:
    with Redis() as port:
        for replay in (False, True):
            ours, theirs = [], []
            for _ in range(rounds):
                theirs.append(powertools_jobs(port, seconds, IN_FLIGHT, replay))
                ours.append(our_jobs(f"redis://127.0.0.1:{port}", seconds, IN_FLIGHT, replay))
            what = "replays" if replay else "first calls"
            report("powertools", what, statistics.median(ours), statistics.median(theirs), 10)


def our_sagas(store: str, seconds: float) -> float:
    async def measure() -> float:
        class Nothing:
            async def execute(self, call: lockbay.StepCall) -> None:
                return None

            async def compensate(self, call: lockbay.StepCall) -> None:
                return None

        async with lockbay.LockBay.open(store, monitoring=False) as bay:
            bay.register_handler("nothing", Nothing())
            steps = [{"name": name, "handler": "nothing"} for name in ("one", "two", "three")]

            async def run(_key: str) -> None:
                saga_id = await bay.sagas.start("compare", steps)
                status = await bay.sagas.wait(saga_id)
                assert status == "completed", status

            return await closed_loop(seconds, IN_FLIGHT, run)

    return asyncio.run(measure())


def dbos_workflows(folder: str, seconds: float) -> float:
    from dbos import DBOS

    DBOS(config={"name": "compare", "system_database_url": f"sqlite:///{folder}/dbos.db"})

    @DBOS.step()
    def step(number: int) -> int:
        return number

    @DBOS.workflow()
    def workflow(key: str) -> int:
        return step(1) + step(2) + step(3)

    DBOS.launch()
    try:
        return closed_threads(seconds, IN_FLIGHT, workflow)
    finally:
        DBOS.destroy()


def compare_dbos(seconds: float, rounds: int) -> None:
    ours, theirs = [], []
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            ours.append(our_sagas(f"sqlite:{folder}/lockbay.db", seconds))
            theirs.append(in_a_process("dbos_workflows", folder, seconds))
    report("dbos", "three steps", statistics.median(ours), statistics.median(theirs), 30)


def in_a_process(function: str, *arguments: object) -> float:
    """What a function says in a process of its own, because it can be begun only once in one."""
    code = f"import rounds, sys; print('\\nresult', rounds.{function}(*{arguments!r}))"
    here = str(pathlib.Path(__file__).parent)
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True
    )
    return float(ended.stdout.rsplit("result", 1)[1])


def compare_overhead(seconds: float, rounds: int) -> None:
    """A job that does nothing, one at a time: run from Python, and from Rust alone.

    Both sides run so many jobs on a store that is empty at first. Those from Python are timed in
    parts, so that rounds of both take about as long. The fastest of each side count: what else the
    machine does can only add to them, and on one that is shared it doubles them for seconds. The
    medians stand beside.
    """
    ours: list[float] = []
    rust: list[float] = []
    for _ in range(rounds):
        ours += asyncio.run(our_job_us(seconds))
        rust += rust_job_us(seconds)
    overhead = min(ours) - min(rust)
    say(
        compare="overhead", python_us=round(min(ours), 1), rust_us=round(min(rust), 1),
        overhead_us=round(overhead, 1), at_most=60, holds=overhead <= 60,
        median_python_us=round(statistics.median(ours), 1),
        median_rust_us=round(statistics.median(rust), 1),
    )


JOBS_OF_A_STORE, JOBS_OF_A_PART = 1_000, 250


async def our_job_us(seconds: float) -> list[float]:
    async def run(count: int) -> None:
        name = uuid.uuid4().hex
        for number in range(count):
            await bay.run_job("compare", f"{name}-{number}", no_op)

    end, took = time.perf_counter() + seconds, []
    while time.perf_counter() < end:
        async with lockbay.LockBay.open("memory:") as bay:
            await run(100)  # These warm up.
            for _ in range(JOBS_OF_A_STORE // JOBS_OF_A_PART):
                began = time.perf_counter()
                await run(JOBS_OF_A_PART)
                took.append(1e6 * (time.perf_counter() - began) / JOBS_OF_A_PART)
    return took


def rust_job_us(seconds: float) -> list[float]:
    command = [os.environ["LOCKBAY_BINARY"], "bench", "run", "--store", "memory:", "--json"]
    command += ["--concurrency", "1", "--count", str(JOBS_OF_A_STORE)]
    end, took = time.perf_counter() + seconds, []
    while time.perf_counter() < end:
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        line = json.loads(ended.stdout.splitlines()[-1])
        took.append(1e6 / float(line["per_second"]))
    return took


def leak(count: int = 1_000_000, warm_up: int = 100_000) -> None:
    """How much the process grows over a million jobs."""

    async def measure() -> None:
        # Outcomes are in a server outside; of those at hand here there are only so many, and the
        # warm-up fills them.
        with Redis() as port:
            async with lockbay.LockBay.open(f"redis://127.0.0.1:{port}", monitoring=False) as bay:
                name, done, before = uuid.uuid4().hex, 0, 0

                async def caller(number: int) -> None:
                    nonlocal done, before
                    while done < count + warm_up:
                        done += 1
                        if done == warm_up:
                            before = resident()
                        await bay.run_job("leak", f"{name}-{done}", no_op, {"n": done})

                await asyncio.gather(*(caller(number) for number in range(IN_FLIGHT)))
                grown = (resident() - before) / 2**20
                say(compare="leak", jobs=count, grown_mib=round(grown, 1), at_most=10,
                    holds=grown <= 10, most_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)

    asyncio.run(measure())


def resident() -> int:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def report(peer: str, what: str, ours: float, theirs: float, at_least: int) -> None:
    say(
        compare=peer, what=what, in_flight=IN_FLIGHT, lockbay_per_second=round(ours),
        peer_per_second=round(theirs), ratio=round(ours / theirs, 1), at_least=at_least,
        holds=ours / theirs >= at_least,
    )


def main() -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore", DeprecationWarning)
    seconds, rounds = float(sys.argv[1]), int(sys.argv[2])
    only = sys.argv[3] if len(sys.argv) > 3 else None
    if only in (None, "overhead"):
        compare_overhead(seconds, rounds)
    if only in (None, "powertools"):
        compare_powertools(seconds, rounds)
    if only in (None, "dbos"):
        compare_dbos(seconds, rounds)
    if only in (None, "leak"):
        leak()


if __name__ == "__main__":
    main()
