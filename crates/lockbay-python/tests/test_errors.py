"""Errors: one class for each kind, all under one base, and messages that say what to do."""

import asyncio
import re
from pathlib import Path

import pytest
from conftest import QUICK
from lockbay import Failed, Job, LockBay, LockBayError, errors

KINDS = {
    "held": errors.Held,
    "busy": errors.Busy,
    "fenced": errors.Fenced,
    "key-reused": errors.KeyReused,
    "refused": errors.Refused,
    "not-found": errors.NotFound,
    "invalid": errors.Invalid,
    "unauthorized": errors.Unauthorized,
    "unavailable": errors.Unavailable,
    "unknown-outcome": errors.UnknownOutcome,
    "rolled-back": errors.RolledBack,
    "internal": errors.Internal,
}


def test_each_kind_is_a_class_of_its_own_under_one_base() -> None:
    assert errors.BY_KIND == KINDS
    for kind, error in KINDS.items():
        assert issubclass(error, LockBayError) and error.kind == kind
        made = error("what failed", retry_after=2.5)
        assert (str(made), made.retry_after) == ("what failed", 2.5)
        assert error().retry_after is None
    assert issubclass(errors.Invalid, ValueError)
    assert not issubclass(Failed, LockBayError), "it is raised by handlers, never to callers"


def test_the_kinds_are_those_of_the_library() -> None:
    source = Path(__file__).parents[2] / "lockbay" / "src" / "error.rs"
    known = re.findall(r"ErrorKind::\w+ => \"([a-z-]+)\"", source.read_text())
    assert set(known) == set(KINDS)


def test_what_may_be_tried_again_says_so() -> None:
    retryable = {kind for kind, error in KINDS.items() if error.retryable}
    assert retryable == {"held", "busy", "unavailable"}


async def test_held_says_who_holds_it_and_when_to_ask_again(bay: LockBay) -> None:
    async with bay.lease("nightly", holder="web-1"):
        with pytest.raises(errors.Held, match="web-1") as held:
            await bay.lease("nightly", holder="web-2")
    assert held.value.retry_after is not None and 0 < held.value.retry_after <= 10


async def test_fenced_is_raised_when_the_right_is_gone(bay: LockBay) -> None:
    running = asyncio.Event()

    async def wait(job: Job) -> None:
        running.set()
        await asyncio.Event().wait()

    ran = asyncio.ensure_future(bay.run_job("job", "k", wait, claim_ttl=0.5))
    await running.wait()
    [job], _ = await bay.jobs.list()
    await bay.jobs.cancel(job["job_id"], "enough")
    with pytest.raises(errors.Fenced, match=job["job_id"]):
        await ran


async def test_not_found_names_what_was_looked_for(bay: LockBay) -> None:
    with pytest.raises(errors.NotFound, match="missing"):
        await bay.alerts.delete_rule("missing")
    with pytest.raises(errors.NotFound, match="f" * 64):
        await bay.jobs.get("f" * 64)


async def test_refused_says_what_the_business_forbids(bay: LockBay) -> None:
    with pytest.raises(errors.Refused, match="user 1 has 0.00 USD available, and this needs 5.00"):
        await bay.cashout(1, 5, "USD", "bank")


async def test_unavailable_says_that_the_store_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(errors.Unavailable, match="redis"):
        await LockBay.open("redis://127.0.0.1:1/0", **QUICK)
    (tmp_path / "file").write_text("")
    with pytest.raises(LockBayError, match=re.escape(str(tmp_path))):
        await LockBay.open(f"sqlite:{tmp_path}/file/lockbay.db", **QUICK)


def test_a_mistake_in_the_settings_is_found_where_it_was_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(errors.Invalid, match="there is no setting \"leadr_ttl\"; there are store"):
        LockBay("memory:", leadr_ttl="5s")
    with pytest.raises(errors.Invalid, match="leader_ttl"):
        LockBay("memory:", leader_ttl="soon")
    monkeypatch.setenv("REDIS_JOB_CLAIM_TTL", "-3")
    with pytest.raises(errors.Invalid, match="REDIS_JOB_CLAIM_TTL"):
        LockBay("memory:")


async def test_a_store_of_an_unknown_kind_is_refused_without_its_password() -> None:
    with pytest.raises(errors.Invalid, match="there is no store \"mysql\"") as refused:
        await LockBay.open("mysql://root:secret@host")
    assert "secret" not in str(refused.value)


async def test_an_unknown_event_is_refused_with_those_there_are(bay: LockBay) -> None:
    known = "there is no event \"leader\"; there are leader_elected"
    with pytest.raises(errors.Invalid, match=known):
        bay.on("leader", print)


async def test_an_error_of_this_package_inside_of_a_handler_is_one_like_any_other(
    bay: LockBay,
) -> None:
    async def nested(job: Job) -> None:
        await bay.jobs.get("f" * 64)

    outcome = await bay.run_job("job", "k", nested, max_retries=0)
    assert outcome.status == "failed" and outcome.error.startswith("NotFound: ")
