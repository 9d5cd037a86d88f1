"""Processes: the end of the interpreter, and forks in all the ways that programs fork.

Each test is a program in a process of its own. It prints what it found, and says nothing else.
"""

import textwrap
import time
from pathlib import Path

import pytest
from conftest import run_python

PRELUDE = """
import asyncio, os, sys, threading, time
from lockbay import LockBay, errors

store = sys.argv[1]

async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)

async def counted(store, key):
    async with LockBay.open(store, shutdown_grace="100ms") as bay:
        return (await bay.run_job("job", key, lambda job: f"ran in {os.getpid()}")).result

def child(work):
    '''Runs this in a child, and gives what it printed, and how it ended.'''
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 1)
        try:
            work()
            code = 0
        except BaseException as error:
            print(type(error).__name__, error)
            code = 1
        sys.stdout.flush()
        os._exit(code)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read().strip()
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), said.replace(str(pid), "child")
"""


def program(store: str, code: str, within: float = 60.0) -> str:
    """Runs a program that must end well and silently, and gives what it printed."""
    ended = run_python(PRELUDE + textwrap.dedent(code), store, within=within)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == "", ended.stdout + ended.stderr
    return ended.stdout.strip()


def test_the_interpreter_ends_with_an_instance_open_and_a_handler_running(store: str) -> None:
    said = program(
        store,
        """
        bay = LockBay(store)
        running = threading.Event()

        class Step:
            async def execute(self, call):
                running.set()
                await asyncio.Event().wait()

        async def work():
            bay.register_handler("step", Step())
            await bay.start()
            await bay.sagas.start("s", [{"name": "step"}])
            await until(running.is_set)

        asyncio.run(work())
        print(time.time(), flush=True)
        """,
    )
    assert time.time() - float(said) < 5


def test_the_interpreter_ends_while_another_thread_runs_the_loop(store: str) -> None:
    said = program(
        store,
        """
        bay = LockBay(store)
        running = threading.Event()

        async def forever(job):
            running.set()
            await asyncio.Event().wait()

        async def work():
            await bay.start()
            try:
                await bay.run_job("job", "k", forever)
            except errors.Fenced:
                pass

        threading.Thread(target=lambda: asyncio.run(work()), daemon=True).start()
        assert running.wait(20)
        print(time.time(), flush=True)
        """,
    )
    assert time.time() - float(said) < 5


def test_the_interpreter_ends_after_exit_inside_of_a_handler(store: str) -> None:
    ended = run_python(
        PRELUDE
        + textwrap.dedent(
            """
            async def leave(job):
                sys.exit(7)

            async def work():
                async with LockBay.open(store) as bay:
                    await bay.run_job("job", "k", leave)

            asyncio.run(work())
            """
        ),
        store,
    )
    assert ended.returncode == 7, ended.stderr


def test_the_interpreter_ends_without_a_loop_having_been_closed(store: str) -> None:
    program(
        store,
        """
        import warnings
        warnings.simplefilter("ignore", ResourceWarning)
        bay = LockBay(store)

        async def work():
            bay.on("leader_lost", print)
            await bay.start()
            await until(bay.is_leader)

        loop = asyncio.new_event_loop()
        loop.run_until_complete(work())
        """,
    )


def test_a_child_that_uses_nothing_leaves_the_parent_alone(store: str) -> None:
    said = program(
        store,
        """
        async def work():
            async with LockBay.open(store) as bay:
                await until(bay.is_leader)
                print(child(lambda: None))
                outcome = await bay.run_job("job", "k", lambda job: "parent goes on")
                print(outcome.result, bay.is_leader())

        asyncio.run(work())
        """,
    )
    assert said.splitlines() == ["(0, '')", "parent goes on True"]


def test_a_child_that_ends_as_an_interpreter_does_leaves_the_parent_alone(store: str) -> None:
    said = program(
        store,
        """
        bay = LockBay(store)

        async def start():
            await bay.start()
            await until(bay.is_leader)

        async def go_on():
            outcome = await bay.run_job("job", "k", lambda job: "parent goes on")
            print(outcome.result, bay.is_leader())

        asyncio.run(start())
        pid = os.fork()
        if pid == 0:
            sys.exit(5)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        asyncio.run(go_on())
        """,
    )
    assert said.splitlines() == ["5", "parent goes on True"]


def test_a_child_is_refused_what_its_parent_has_open_on_sqlite(sqlite_store: str) -> None:
    said = program(
        sqlite_store,
        """
        bay = LockBay(store)

        async def use():
            await bay.state.get("k")

        async def open_it():
            await bay.start()

        async def open_another():
            await LockBay.open(store)

        async def open_another_file():
            await LockBay.open(store + "2")

        async def work():
            await bay.start()
            for attempt in (use, open_it, open_another, open_another_file):
                print(child(lambda: asyncio.run(attempt())))
            print((await bay.run_job("job", "k", lambda job: "parent goes on")).result)
            await bay.close()

        asyncio.run(work())
        """,
    )
    lines = said.splitlines()
    assert lines[0].startswith("(1, 'Unavailable this LockBay was opened by process ")
    assert lines[0].endswith("and this is its child child: open it here as well, with start()')")
    for line in lines[1:4]:
        assert line.startswith('(1, "Unavailable SQLite files cannot be carried over a fork'), line
    assert lines[4:] == ["parent goes on"]


def test_a_child_is_refused_sqlite_also_when_it_dropped_what_its_parent_had(
    sqlite_store: str,
) -> None:
    said = program(
        sqlite_store,
        """
        import gc
        bays = [LockBay(store)]

        def drop_and_open():
            bays.clear()
            gc.collect()
            asyncio.run(counted(store, "k"))

        async def start():
            await bays[0].start()

        asyncio.run(start())
        print(child(drop_and_open))
        """,
    )
    assert said.startswith('(1, "Unavailable SQLite files cannot be carried over a fork')


def test_a_child_may_open_a_file_that_its_parent_has_closed(sqlite_store: str) -> None:
    said = program(
        sqlite_store,
        """
        print(asyncio.run(counted(store, "k")) == f"ran in {os.getpid()}")
        print(child(lambda: print(asyncio.run(counted(store, "child")))))
        print(asyncio.run(counted(store, "k")) == f"ran in {os.getpid()}")
        """,
    )
    assert said.splitlines() == ["True", "(0, 'ran in child')", "True"]


def test_a_child_opens_anew_what_its_parent_has_open_on_redis(redis_store: str) -> None:
    said = program(
        redis_store,
        """
        class Step:
            def execute(self, call):
                return os.getpid()

        bay = LockBay(store)
        bay.register_handler("step", Step())

        async def again():
            await bay.start()
            saga_id = await bay.sagas.start("s", [{"name": "step"}])
            await bay.sagas.wait(saga_id, 20)
            [step] = (await bay.sagas.get(saga_id))["steps"]
            print(step["result"], bay.instance_id != parent)
            await bay.close()

        async def work():
            global parent
            await bay.start()
            parent = bay.instance_id
            print(child(lambda: asyncio.run(again())))
            print((await bay.run_job("job", "k", lambda job: "parent goes on")).result)
            await bay.close()

        asyncio.run(work())
        """,
    )
    assert said.splitlines() == ["(0, 'child True')", "parent goes on"]


def test_a_child_of_a_parent_that_is_closing_does_not_wait_for_that(store: str) -> None:
    said = program(
        store,
        """
        from lockbay import _lockbay

        async def close(bay):
            await bay.close()

        async def work():
            bay = await LockBay.open(store)
            running = asyncio.Event()

            async def forever(job):
                running.set()
                await asyncio.Event().wait()

            ran = asyncio.ensure_future(bay.run_job("job", "k", forever))
            await running.wait()
            closing = asyncio.ensure_future(bay.close())
            await asyncio.sleep(0)
            print(child(lambda: (asyncio.run(close(bay)), _lockbay.end())))
            assert not closing.done()
            await asyncio.gather(closing, ran, return_exceptions=True)

        asyncio.run(work())
        """,
    )
    assert said == "(0, '')"


def test_forks_in_the_midst_of_work_never_leave_a_child_locked(redis_store: str) -> None:
    said = program(
        redis_store,
        """
        async def work():
            async with LockBay.open(store) as bay:
                async def busily():
                    number = 0
                    while True:
                        number += 1
                        await bay.state.set("k", number)

                busy = [asyncio.ensure_future(busily()) for _ in range(8)]
                for number in range(40):
                    await bay.state.set("other", number)
                    key = f"child {number}"
                    code, said = child(lambda: print(asyncio.run(counted(store, key))))
                    assert (code, said) == (0, "ran in child"), (code, said)
                for task in busy:
                    assert not task.done(), task
                    task.cancel()

        asyncio.run(work())
        print("all")
        """,
        within=120,
    )
    assert said == "all"


def test_forks_on_several_threads_at_once_hold_nobody_up(redis_store: str) -> None:
    said = program(
        redis_store,
        """
        def fork():
            for _ in range(20):
                pid = os.fork()
                if pid == 0:
                    os._exit(0)
                os.waitpid(pid, 0)

        async def work():
            async with LockBay.open(store) as bay:
                forks = [asyncio.to_thread(fork) for _ in range(4)]
                jobs = [bay.run_job("job", str(key), lambda job: 1) for key in range(50)]
                await asyncio.gather(*forks, *jobs)

        asyncio.run(work())
        print("all")
        """,
    )
    assert said == "all"


WORKER = """
import asyncio
from lockbay import LockBay

async def work(store):
    # Without monitoring: so many that lead in so short a time are an alert, which the log would tell.
    async with LockBay.open(store, shutdown_grace="100ms", monitoring=False) as bay:
        return (await bay.run_job("job", "k", lambda job: "once", wait_seconds=20)).result

def run(store):
    return asyncio.run(work(store))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_multiprocessing_open_the_store_for_themselves(
    store: str, method: str, tmp_path: Path
) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    said = program(
        store,
        f"""
        import multiprocessing
        sys.path.insert(0, {str(tmp_path)!r})
        import worker

        with multiprocessing.get_context({method!r}).Pool(3) as pool:
            print(pool.map(worker.run, [store] * 6))
        """,
    )
    assert said == str(["once"] * 6)
