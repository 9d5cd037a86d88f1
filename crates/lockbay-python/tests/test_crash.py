"""Processes with Python handlers are killed and frozen in the middle of them.

Each test has two workers on one store, with the same handlers. A worker waits in a handler for as
long as a file is there, and what handlers were asked stands in a file that outlives them; see
`crash_worker.py`. The tests open no instance of their own, which would take sagas over as well.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from processes import STORES, Worker, eventually, notes, shared_store

SESSION_TTL = 1.0
CLAIM_TTL = 1.0
MARGIN = 1.0
"""What a takeover may take beyond the time that a session or claim lasts."""
SETTINGS = {"session_ttl": SESSION_TTL}


class World:
    """Two workers, the first of which comes to grief."""

    def __init__(self, directory: Path, store: str, workers: contextlib.ExitStack) -> None:
        self.directory = directory
        started = [
            Worker("crash_worker.py", store, directory, name, json.dumps(SETTINGS))
            for name in ("first", "second")
        ]
        self.first, self.second = (workers.enter_context(worker) for worker in started)
        for worker in started:
            worker.opened()

    def hold(self, action: str, step: str) -> Path:
        """Has the first worker wait in this handler until the file is gone."""
        file = self.directory / f"hold.first.{action}.{step}"
        file.touch()
        return file

    def calls(self, **of: Any) -> list[dict[str, Any]]:
        """What was written down that is like this, in order."""
        all_of = notes(self.directory / "calls.jsonl")
        return [call for call in all_of if all(call[name] == value for name, value in of.items())]

    def call(self, worker: str, action: str, step: str, what: str = "began") -> dict[str, Any]:
        """The one call like this, once it is there."""
        of = {"worker": worker, "action": action, "step": step, "what": what}
        (call,) = eventually(f"{worker} {action} {step} {what}", lambda: self.calls(**of))
        return call

    def start(self, **parameters: str) -> str:
        """Starts a saga of three steps in the first worker."""
        names = ("reserve", "charge", "ship")
        steps = [
            {"name": name, "handler": "work", "parameters": parameters.get(name)} for name in names
        ]
        return str(self.first.ask("start", steps=steps))

    def results(self, saga_id: str, of: str = "result") -> dict[str, Any]:
        """What each step has returned, by its name."""
        saga = self.second.ask("show", saga_id=saga_id)
        return {step["name"]: step[of] for step in saga["steps"]}


@pytest.fixture(params=STORES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with shared_store(request.param, tmp_path) as store, contextlib.ExitStack() as workers:
        yield World(tmp_path, store, workers)


def assert_taken_over(first: dict[str, Any], second: dict[str, Any], since: float) -> None:
    """The call came again elsewhere, under the same key, with the greater token, and soon."""
    assert second["key"] == first["key"]
    assert second["token"] > first["token"]
    if first["action"] != "compensate":
        # An attempt to compensate that was cut off is not counted.
        assert (first["attempt"], second["attempt"]) == (1, 2)
    assert second["at"] - since <= SESSION_TTL + MARGIN


def test_another_process_goes_on_after_a_kill_in_the_middle_of_a_step(world: World) -> None:
    world.hold("execute", "charge")
    saga = world.start()
    first = world.call("first", "execute", "charge")
    world.first.kill()
    killed = time.monotonic()
    assert world.second.ask("wait", saga_id=saga) == "completed"
    assert_taken_over(first, world.call("second", "execute", "charge"), killed)
    results = world.results(saga)
    assert results == {
        "reserve": {"by": "first"},
        "charge": {"by": "second"},
        "ship": {"by": "second"},
    }
    assert not world.calls(worker="second", step="reserve"), "what is recorded is not repeated"


def test_another_process_goes_back_after_a_kill_in_the_middle_of_a_compensation(
    world: World,
) -> None:
    world.hold("compensate", "charge")
    saga = world.start(ship="fail")
    first = world.call("first", "compensate", "charge")
    world.first.kill()
    killed = time.monotonic()
    assert world.second.ask("wait", saga_id=saga) == "compensated"
    assert_taken_over(first, world.call("second", "compensate", "charge"), killed)
    undone = world.results(saga, "compensation_result")
    assert undone == {"reserve": {"by": "second"}, "charge": {"by": "second"}, "ship": None}
    executed = world.calls(action="execute", what="began")
    assert [call["step"] for call in executed] == ["reserve", "charge"], "nothing is done again"


def test_a_saga_turns_back_in_another_process_after_a_kill(world: World) -> None:
    world.hold("execute", "charge")
    saga = world.start(ship="fail")
    first = world.call("first", "execute", "charge")
    world.first.kill()
    killed = time.monotonic()
    assert world.second.ask("wait", saga_id=saga) == "compensated"
    assert_taken_over(first, world.call("second", "execute", "charge"), killed)
    back = world.calls(action="compensate", what="began")
    assert [(call["worker"], call["step"]) for call in back] == [
        ("second", "charge"),
        ("second", "reserve"),
    ]


@pytest.mark.parametrize("action", ["execute", "compensate"])
def test_a_process_that_wakes_up_has_its_handler_cancelled(world: World, action: str) -> None:
    world.hold(action, "charge")
    saga = world.start(ship="fail" if action == "compensate" else "go")
    first = world.call("first", action, "charge")
    world.first.freeze()
    frozen = time.monotonic()
    end = "compensated" if action == "compensate" else "completed"
    assert world.second.ask("wait", saga_id=saga) == end
    assert_taken_over(first, world.call("second", action, "charge"), frozen)
    world.first.thaw()
    world.call("first", action, "charge", "cancelled")
    of = "compensation_result" if action == "compensate" else "result"
    assert world.results(saga, of)["charge"] == {"by": "second"}


def test_a_plain_function_that_wakes_up_sees_that_it_is_cancelled(world: World) -> None:
    world.hold("execute", "charge")
    saga = world.first.ask("start", steps=[{"name": "charge", "handler": "work_on_a_thread"}])
    first = world.call("first", "execute", "charge")
    world.first.freeze()
    frozen = time.monotonic()
    assert world.second.ask("wait", saga_id=saga) == "completed"
    assert_taken_over(first, world.call("second", "execute", "charge"), frozen)
    world.first.thaw()
    world.call("first", "execute", "charge", "cancelled")
    assert world.results(saga) == {"charge": {"by": "second"}}


@pytest.mark.parametrize("action", ["execute", "compensate"])
def test_the_outcome_of_a_process_that_wakes_up_comes_too_late(world: World, action: str) -> None:
    held = world.hold(action, "charge")
    saga = world.start(ship="fail" if action == "compensate" else "go")
    world.call("first", action, "charge")
    world.first.freeze()
    end = "compensated" if action == "compensate" else "completed"
    assert world.second.ask("wait", saga_id=saga) == end
    before = world.second.ask("history", saga_id=saga)
    # It returns as soon as it wakes up, and before it has looked at its watch.
    held.unlink()
    world.first.thaw()
    eventually(
        "the handler that woke up has ended",
        lambda: [call for call in world.calls(worker="first", action=action, step="charge")][1:],
    )
    assert world.first.ask("wait", saga_id=saga) == end, "it sees what the other one did"
    assert world.second.ask("history", saga_id=saga) == before, "nothing was added"
    of = "compensation_result" if action == "compensate" else "result"
    assert world.results(saga, of)["charge"] == {"by": "second"}


def test_a_frozen_process_works_again_once_it_is_awake(world: World) -> None:
    world.hold("execute", "charge")
    world.start()
    world.call("first", "execute", "charge")
    world.first.freeze()
    world.call("second", "execute", "ship")
    world.first.thaw()
    world.call("first", "execute", "charge", "cancelled")
    (world.directory / "hold.first.execute.charge").unlink()
    saga = world.first.ask("start", steps=[{"name": "again", "handler": "work"}])
    assert world.first.ask("wait", saga_id=saga) == "completed"


def test_a_job_whose_process_is_killed_runs_again_elsewhere(world: World) -> None:
    world.hold("run", "pay")
    world.first.tell("run_job", claim_ttl=CLAIM_TTL)
    first = world.call("first", "run", "pay")
    world.first.kill()
    killed = time.monotonic()
    outcome = world.second.ask("run_job", claim_ttl=CLAIM_TTL, wait_seconds=10)
    assert outcome == {"status": "completed", "replayed": False, "result": {"by": "second"}}
    assert_taken_over(first, world.call("second", "run", "pay"), killed)
    again = world.second.ask("run_job", claim_ttl=CLAIM_TTL)
    assert again == {"status": "completed", "replayed": True, "result": {"by": "second"}}


def test_a_job_is_not_taken_over_while_its_process_is_alive(world: World) -> None:
    held = world.hold("run", "pay")
    job = world.first.tell("run_job", claim_ttl=CLAIM_TTL)
    began = world.call("first", "run", "pay")["at"]
    # Longer than the claim lasts without heartbeats.
    in_time = {"claim_ttl": CLAIM_TTL, "wait_seconds": 2 * CLAIM_TTL}
    assert world.second.ask("run_job", **in_time)["status"] == "in_progress"
    assert time.monotonic() - began > CLAIM_TTL
    held.unlink()
    assert world.first.hear(job)["result"] == {"by": "first"}
    assert world.second.ask("run_job", **in_time)["replayed"] is True
    assert not world.calls(worker="second")


@pytest.mark.parametrize("returns", [False, True])
def test_a_job_that_wakes_up_is_fenced(world: World, returns: bool) -> None:
    held = world.hold("run", "pay")
    job = world.first.tell("run_job", claim_ttl=CLAIM_TTL)
    first = world.call("first", "run", "pay")
    world.first.freeze()
    frozen = time.monotonic()
    outcome = world.second.ask("run_job", claim_ttl=CLAIM_TTL, wait_seconds=10)
    assert outcome["result"] == {"by": "second"}
    assert_taken_over(first, world.call("second", "run", "pay"), frozen)
    if returns:
        held.unlink()
    world.first.thaw()
    assert world.first.hear(job) == {"raised": "fenced"}
    if not returns:
        world.call("first", "run", "pay", "cancelled")
    again = world.second.ask("run_job", claim_ttl=CLAIM_TTL)
    assert again == {"status": "completed", "replayed": True, "result": {"by": "second"}}
