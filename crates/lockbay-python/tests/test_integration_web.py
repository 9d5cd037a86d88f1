"""The guide's paths in FastAPI, Starlette and Flask, and the command in Django."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient
from flask import Flask
from lockbay import LockBay, errors
from lockbay.integrations.apscheduler import LeaderAwareScheduler
from lockbay.integrations.fastapi import lifespan, router
from lockbay.integrations.flask import blueprint
from lockbay.integrations.starlette import routes
from lockbay.integrations.threads import LoopThread
from starlette.applications import Starlette

from conditions import eventually

PATH = "/api/advanced-state"
HEALTH = {
    "leader_election_healthy",
    "job_coordination_healthy",
    "saga_coordination_healthy",
    "cleanup_service_healthy",
    "state_manager_healthy",
    "overall_healthy",
    "last_check",
    "issues",
}
METRICS = {
    "instance_id",
    "uptime_seconds",
    "is_leader",
    "leader_info",
    "health_status",
    "system_metrics",
    "job_idempotency_metrics",
    "saga_metrics",
    "cleanup_metrics",
    "state_manager_metrics",
}
REPORT = {
    "timestamp",
    "instance_id",
    "overall_status",
    "system_uptime",
    "leader_status",
    "performance_summary",
    "system_load",
    "health_issues",
    "trends",
    "baselines",
    "active_alerts",
}


def new_bay(directory: Path, **settings: Any) -> LockBay:
    return LockBay(f"sqlite:{directory / 'lockbay.db'}", **settings)


def check_of_an_open_instance(get: Any) -> None:
    """Of a client's `get`, which gives a status, a content type and a document."""
    for path, members in (("health", HEALTH), ("metrics", METRICS), ("report", REPORT)):
        status, content_type, document = get(f"{PATH}/{path}")
        assert (status, content_type) == (200, "application/json"), document
        assert members <= document.keys()


def check_of_a_closed_instance(get: Any, why: str) -> None:
    status, content_type, health = get(f"{PATH}/health")
    assert (status, content_type) == (503, "application/json")
    assert HEALTH <= health.keys() and not health["overall_healthy"]
    (issue,) = health["issues"]
    assert why in issue
    for path in ("metrics", "report"):
        status, content_type, problem = get(f"{PATH}/{path}")
        assert (status, content_type) == (503, "application/problem+json")
        assert (problem["type"], problem["status"]) == ("/problems/unavailable", 503)
        assert problem["retryable"] and why in problem["detail"]


def of_starlette(client: TestClient) -> Any:
    def get(path: str) -> tuple[int, str, Any]:
        reply = client.get(path)
        return reply.status_code, reply.headers["content-type"], reply.json()

    return get


@pytest.mark.parametrize("framework", ["fastapi", "starlette"])
def test_an_application_answers_while_it_lives_and_says_so_when_not_open(
    framework: str, tmp_path: Path
) -> None:
    bay = new_bay(tmp_path)
    live = lifespan(bay)
    app: Any
    if framework == "fastapi":
        app = FastAPI(lifespan=live)
        app.include_router(router(bay))
    else:
        app = Starlette(routes=routes(bay), lifespan=live)
    with TestClient(app) as client:
        check_of_an_open_instance(of_starlette(client))
    assert not bay.is_open
    check_of_a_closed_instance(of_starlette(TestClient(app)), "is not open")


def test_the_router_is_guarded_by_what_the_application_says(tmp_path: Path) -> None:
    def nobody() -> None:
        raise HTTPException(403)

    app = FastAPI()
    app.include_router(router(new_bay(tmp_path), dependencies=[Depends(nobody)]))
    assert TestClient(app).get(f"{PATH}/metrics").status_code == 403


def test_a_lifespan_takes_a_scheduler_along(tmp_path: Path) -> None:
    bay = new_bay(tmp_path)
    scheduler = LeaderAwareScheduler(bay=bay)
    app = FastAPI(lifespan=lifespan(bay, scheduler=scheduler, leader_ttl="1s"))
    with TestClient(app):
        assert scheduler.running and bay.is_open
    assert not scheduler.running and not bay.is_open


def of_flask(app: Flask) -> Any:
    def get(path: str) -> tuple[int, str, Any]:
        reply = app.test_client().get(path)
        return reply.status_code, reply.content_type, reply.get_json(force=True)

    return get


def test_flask_answers_many_threads_at_once(tmp_path: Path) -> None:
    lockbay = LoopThread(new_bay(tmp_path))
    app = Flask(__name__)
    app.register_blueprint(blueprint(lockbay))
    start = threading.Barrier(8)

    def ask(_: int) -> None:
        start.wait()
        check_of_an_open_instance(of_flask(app))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    lockbay.close()
    lockbay.close()


def test_flask_refuses_settings_that_it_would_not_use(tmp_path: Path) -> None:
    lockbay = LoopThread(new_bay(tmp_path))
    with pytest.raises(errors.Invalid, match="store"):
        blueprint(lockbay, store="redis://127.0.0.1")
    lockbay.close()


def test_flask_says_why_an_instance_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "lockbay.db").write_text("this is no database, and was not made by one")
    app = Flask(__name__)
    app.register_blueprint(blueprint(new_bay(tmp_path)))
    check_of_a_closed_instance(of_flask(app), "lockbay.db")


def test_a_view_runs_jobs_once_for_all_threads(tmp_path: Path) -> None:
    lockbay = LoopThread(new_bay(tmp_path))
    ran = []

    def work(job: Any) -> str:
        ran.append(threading.current_thread())
        return "done"

    def ask(_: int) -> str:
        outcome = lockbay.run(lockbay.bay.run_job, "work", "1", work, wait_seconds=20)
        return str(outcome.result)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == ["done"] * 8
    assert len(ran) == 1
    lockbay.close()


def test_a_scheduler_runs_on_the_thread_of_the_loop(tmp_path: Path) -> None:
    lockbay = LoopThread(new_bay(tmp_path))
    scheduler = LeaderAwareScheduler(bay=lockbay.bay)
    ticked = threading.Event()
    scheduler.add_job(ticked.set, "interval", seconds=1, id="tick", leader_only=True)
    lockbay.ask(scheduler.start)
    assert not lockbay.bay.is_open
    lockbay.start()
    assert ticked.wait(30)
    lockbay.close()


def test_a_call_that_takes_too_long_is_cancelled(tmp_path: Path) -> None:
    lockbay = LoopThread(new_bay(tmp_path))
    cancelled = threading.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError):
        lockbay.run(forever, timeout=1)
    assert cancelled.wait(30)
    lockbay.close()


def test_the_thread_of_the_loop_does_not_wait_for_itself(tmp_path: Path) -> None:
    lockbay = LoopThread(new_bay(tmp_path))
    with pytest.raises(errors.Invalid, match="await"):
        lockbay.run(lambda: lockbay.run(lockbay.bay.health))
    lockbay.close()


def test_a_handler_that_asks_while_it_is_closed_is_refused(tmp_path: Path) -> None:
    lockbay = LoopThread(new_bay(tmp_path))
    running, heard = threading.Event(), []

    def work(job: Any) -> None:
        running.set()
        eventually("it is being closed", lambda: not lockbay.bay.is_open)
        for ask in (lockbay.run, lockbay.ask, lambda _: lockbay.start()):
            try:
                heard.append(ask(lockbay.bay.health))
            except errors.Unavailable as error:
                heard.append(type(error))

    def call() -> None:
        with suppress(errors.LockBayError, CancelledError):
            lockbay.run(lockbay.bay.run_job, "work", "1", work)

    threading.Thread(target=call, daemon=True).start()
    assert running.wait(30)
    closing = threading.Thread(target=lockbay.close, daemon=True)
    closing.start()
    closing.join(20)
    assert not closing.is_alive(), "it waits for the handler, which waits for it"
    assert heard == [errors.Unavailable] * 3
    assert not lockbay.bay.is_open


def test_once_closed_only_start_opens_it_again(tmp_path: Path) -> None:
    lockbay = LoopThread(new_bay(tmp_path))
    app = Flask(__name__)
    app.register_blueprint(blueprint(lockbay))
    check_of_an_open_instance(of_flask(app))
    lockbay.close()
    check_of_a_closed_instance(of_flask(app), "closed")
    for ask in (lockbay.run, lockbay.ask):
        with pytest.raises(errors.Unavailable, match="closed"):
            ask(lockbay.bay.health)
    assert not lockbay.bay.is_open
    lockbay.start()
    check_of_an_open_instance(of_flask(app))
    lockbay.close()


ENDED = """
import sys, threading, time
import concurrent.futures.thread as executors
from lockbay import LockBay, SagaStep
from lockbay.integrations.threads import LoopThread

lockbay = LoopThread(LockBay(f"sqlite:{sys.argv[1]}/lockbay.db", leader_ttl="1s"))
running = threading.Event()

def until_it_ends():
    while lockbay.bay.is_open and not executors._shutdown:
        time.sleep(0.005)

def slow(job):
    running.wait()
    until_it_ends()
    time.sleep(1)  # Python waits for it.

class Plain:
    def execute(self, call):
        print(call.action, call.step, flush=True)
        running.set()
        if len(sys.argv) == 2:
            until_it_ends()

    def compensate(self, call):
        print(call.action, call.step, flush=True)

lockbay.bay.register_handler("plain", Plain())
lockbay.start()
if len(sys.argv) == 2:
    job = lockbay.bay.run_job, "slow", "1", slow
    threading.Thread(target=lockbay.run, args=job, daemon=True).start()
    steps = [SagaStep(name=name, handler="plain", idempotent=False) for name in "abc"]
    saga_id = lockbay.run(lockbay.bay.sagas.start, "order", steps)
    running.wait()
    print(saga_id)
else:
    print(lockbay.run(lockbay.bay.sagas.wait, sys.argv[2], 30))
"""


def test_a_process_that_ends_in_the_midst_of_a_saga_turns_none_around(tmp_path: Path) -> None:
    def ends(*arguments: str) -> list[str]:
        command = [sys.executable, "-c", ENDED, str(tmp_path), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "cannot schedule" not in done.stderr, done.stderr
        return done.stdout.splitlines()

    begun, saga_id = ends()
    assert begun == "execute a"
    assert ends(saga_id) == ["execute b", "execute c", "completed"]


FORKED = """
import os, sys
from lockbay import LockBay
from lockbay.integrations.threads import LoopThread
lockbay = LoopThread(LockBay(f"sqlite:{sys.argv[1]}/lockbay.db"))
assert lockbay.ask(os.getpid) == os.getpid()
pid = os.fork()
healthy = lockbay.run(lockbay.bay.health)["overall_healthy"]
lockbay.close()
if pid == 0:
    os._exit(0 if healthy else 1)
_, status = os.waitpid(pid, 0)
print(healthy, status)
"""


def test_parent_and_child_of_a_fork_each_have_a_thread_of_their_own(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "True 0\n"), done.stderr


SETTINGS = """
INSTALLED_APPS = ["lockbay.integrations.django"]
SECRET_KEY = "of a test"
LOCKBAY_STORE = {store!r}
"""


def django(directory: Path, store: str, *arguments: str) -> tuple[int, str, str]:
    (directory / "settings_of_a_test.py").write_text(SETTINGS.format(store=store))
    path = os.pathsep.join([str(directory), os.environ.get("PYTHONPATH", "")])
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "DJANGO_SETTINGS_MODULE": "settings_of_a_test",
    }
    command = [sys.executable, "-m", "django", "lockbay_health", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_the_command_of_django_says_how_a_running_instance_is(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'lockbay.db'}"
    lockbay = LoopThread(LockBay(store))
    lockbay.start()
    code, out, err = django(tmp_path, store)
    assert (code, out) == (0, "healthy\n"), err
    code, out, err = django(tmp_path, store, "--json")
    assert code == 0 and HEALTH <= json.loads(out).keys(), err
    assert lockbay.run(lockbay.bay.leader.current)["is_self"], "it did not take part"
    lockbay.close()


def test_the_command_of_django_says_that_nobody_leads(tmp_path: Path) -> None:
    code, out, err = django(tmp_path, f"sqlite:{tmp_path / 'lockbay.db'}")
    assert code == 1 and "unhealthy" in out and "nobody leads" in out, err


def test_the_command_of_django_says_what_cannot_be_reached(tmp_path: Path) -> None:
    (tmp_path / "no.db").write_text("this is no database, and was not made by one")
    code, out, err = django(tmp_path, f"sqlite:{tmp_path / 'no.db'}")
    assert (code, out) == (2, "") and err.startswith("unreachable: "), err
    code, out, err = django(tmp_path, "memory:", "--url", "http://127.0.0.1:9")
    assert (code, out) == (2, "") and "127.0.0.1:9" in err


@pytest.mark.parametrize(
    "answer",
    [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"],
    ids=["another protocol", "half an answer"],
)
def test_the_command_of_django_says_that_an_answer_is_no_http(
    tmp_path: Path, answer: bytes
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        code, out, err = django(tmp_path, "memory:", "--url", url)
        serving.join(30)
    assert (code, out) == (2, "") and err.startswith(f"unreachable: {url}"), err


def test_the_command_of_django_asks_a_running_application(tmp_path: Path) -> None:
    from werkzeug.serving import make_server

    lockbay = LoopThread(new_bay(tmp_path))
    app = Flask(__name__)
    app.register_blueprint(blueprint(lockbay))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        code, out, err = django(tmp_path, "memory:", "--url", url)
        assert (code, out) == (0, "healthy\n"), err
        code, out, err = django(tmp_path, "memory:", "--url", url + "/elsewhere")
        assert code == 2 and "404" in err
    finally:
        server.shutdown()
        lockbay.close()
