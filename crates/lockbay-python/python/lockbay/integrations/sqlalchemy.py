"""Effects in the application's own database that happen exactly once.

A step, job or tick comes again after a crash, and nobody can tell from outside whether its
transaction was committed. So the transaction says it itself: it writes a row of `lockbay_outbox`
beside the application's rows, under the idempotency key of the call. Whoever comes later under that
key finds the row, gets the result that is recorded there, and does nothing.

What holds, as long as the rows are kept:

- The effect of a call is committed once, however often and wherever the call is made.
- An attempt with an older fencing token than the one recorded is refused with `Fenced`.
- A compensation of a step that never committed records that it is undone, so that an attempt which
  is still on its way can commit no more. A step that LockBay has as done is undone without its row.

A call that has several effects gives each a name, and each has a row of its own.

It refuses to know what LockBay keeps; nothing here reads its store. What a call does elsewhere than
through this session is not covered.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, AsyncIterator, Iterator, NoReturn

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, ResourceClosedError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, SessionTransaction, scoped_session, sessionmaker

from lockbay import _lockbay
from lockbay.errors import Fenced, Invalid, UnknownOutcome

__all__ = [
    "AlreadyDone",
    "Effect",
    "atomic_transaction",
    "configure",
    "create_outbox",
    "forget",
    "metadata",
    "once",
    "outbox",
]

metadata = sa.MetaData()
"""Of the outbox alone, for migrations."""

outbox = sa.Table(
    "lockbay_outbox",
    metadata,
    # That of the execution, or of the compensation.
    sa.Column("idempotency_key", sa.String(512), primary_key=True),
    # One of the constants below.
    sa.Column("action", sa.String(16), nullable=False),
    # JSON, as text: what LockBay records as well, digit by digit.
    sa.Column("result", sa.Text),
    sa.Column("fencing_token", sa.BigInteger, nullable=False),
    sa.Column(
        "recorded_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
    ),
)

# Seen by others only if somebody committed inside of the block.
_BEGUN = "begun"
_EXECUTED = "execute"
_COMPENSATED = "compensate"
_UNDONE = "undone"


def create_outbox(bind: sa.Engine | sa.Connection) -> None:
    """Creates the table unless it is there. With an async engine: `connection.run_sync` of this."""
    create = sa.schema.CreateTable(outbox, if_not_exists=True)
    if isinstance(bind, sa.Connection):
        bind.execute(create)
        return
    with bind.begin() as connection:
        connection.execute(create)


def forget(session: Session, older_than: timedelta) -> int:
    """Deletes rows that are older; how many.

    A call that comes again after its row was deleted has its effect again. Keep rows for longer
    than any saga lives, parked ones as well, and than the deduplication horizon of jobs.
    """
    before = datetime.now(timezone.utc) - older_than
    deleted = session.execute(sa.delete(outbox).where(outbox.c.recorded_at < before))
    return int(deleted.rowcount)  # type: ignore[attr-defined]


class AlreadyDone(BaseException):
    """Ends the block of an effect that is done, at its first use of the session.

    The block that it ends catches it itself. It is no `Exception`, so that nothing in between does.
    """


@dataclass(frozen=True)
class _Right:
    """What a call may write under."""

    key: str
    undo_key: str | None
    token: int
    # For a compensation, whether LockBay has the step as completed, and with which result.
    is_completed: bool = False
    known: Any = None
    # What was called, which tells this attempt from others of this process.
    call: Any = None

    @staticmethod
    def of(call: Any, name: str) -> _Right:
        """What it may write under for the effect of this name, which `""` is as well."""
        call = getattr(call, "step", call) if isinstance(call, dict) else call
        if not isinstance(name, str):
            raise Invalid(f"the name of an effect is text, not {name!r}")
        if hasattr(call, "undo_key"):
            if call.action == "probe":
                raise Invalid(
                    f"{call!r} is a probe: a step whose effect is recorded here may simply be "
                    "executed again, and needs none"
                )
            key = _row_key(call.idempotency_key, name)
            if call.action != "compensate":
                return _Right(key, None, call.fencing_token, call=call)
            undo_key, known = _row_key(call.undo_key, name), call.original_result
            return _Right(key, undo_key, call.fencing_token, call.is_completed, known, call)
        if hasattr(call, "idempotency_token"):
            key = _row_key(call.idempotency_token, name)
            return _Right(key, None, call.fencing_token, call=call)
        raise Invalid(
            f"an effect is that of a step, a job or a tick, not of {call!r}: pass `context.step`, "
            "the `StepCall`, or the `job` that the handler gets"
        )


def _row_key(key: str, name: str) -> str:
    """That of a call's effect. Steps may have `#` in their names, which no key of one has then."""
    key = key.replace("%", "%25").replace("#", "%23")
    return f"{key}#{name}" if name else key


class _Had:
    """The effects that attempts have had in this process, or have found: the latest of them.

    An attempt that comes to an effect again has two of them, and the second would be skipped. What
    is dropped here, or was had in another process, is found when the next attempt comes to both.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        # With what was called, so that no other object gets its identity meanwhile.
        self._effects: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

    def add(self, effect: tuple[Any, ...], call: Any) -> None:
        with self._lock:
            self._effects[effect] = call
            self._effects.move_to_end(effect)
            while len(self._effects) > self._limit:
                self._effects.popitem(last=False)

    def __contains__(self, effect: tuple[Any, ...]) -> bool:
        with self._lock:
            return effect in self._effects


_had = _Had(limit=1_000)


class Effect:
    """What one call does in one transaction, which somebody else commits.

    Entered with `with` on a `Session`, with `async with` on an `AsyncSession`. The block uses
    `session`, and sets `result`, which is recorded at its end. If the effect is done already, the
    block ends where it first uses `session`, and `result` is what was recorded then.
    """

    def __init__(self, session: Session | AsyncSession, call: Any, name: str = "") -> None:
        self._session = session
        self._right = _Right.of(call, name)
        self._recorded: Any = None
        # What it is to `_had`; known when the session is.
        self._identity: tuple[Any, ...] = ()
        self.is_done = False
        """Whether there is nothing to do: it was done before, or there is nothing to undo."""
        self.result: Any = None
        """What the call returns: anything that JSON can say."""
        self.original_result: Any = None
        """For a compensation, what the execution recorded; without its row, what LockBay has."""

    @property
    def session(self) -> Any:
        """The session; if there is nothing to do, the end of the block."""
        if self.is_done:
            raise AlreadyDone(self._right.key)
        return self._session

    def __enter__(self) -> Effect:
        if not isinstance(self._session, (Session, scoped_session)):
            raise Invalid(f"{self._session!r} is asynchronous: use `async with`")
        self._begin(self._session)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        self._end(self._session, error)
        return self._is_over(error)

    async def __aenter__(self) -> Effect:
        if not isinstance(self._session, AsyncSession):
            raise Invalid(f"{self._session!r} is not asynchronous: use `with`")
        await self._session.run_sync(self._begin)
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        assert isinstance(self._session, AsyncSession)
        await self._session.run_sync(self._end, error)
        return self._is_over(error)

    def _is_over(self, error: BaseException | None) -> bool:
        if self.is_done:
            self.result = self._recorded
        return self.is_done and isinstance(error, AlreadyDone)

    def _begin(self, session: Any) -> None:
        right = self._right
        # Each database has an outbox of its own.
        database = weakref.ref(session.get_bind(clause=outbox).engine)
        attempt = (id(right.call), right.call.attempt)
        self._identity = (database, right.key, right.undo_key, right.token, attempt)
        if right.undo_key is None:
            self._begin_execution(session)
        else:
            self._begin_compensation(session, right.undo_key)
        if self.is_done:
            self._was_had()

    def _end(self, session: Any, error: BaseException | None) -> None:
        if error is None and not self.is_done:
            self._record(session)

    def _was_had(self) -> None:
        _had.add(self._identity, self._right.call)

    def _begin_execution(self, session: Session) -> None:
        found = _take(session, self._right.key, _BEGUN, self._right.token)
        if found is None:
            return
        self._refuse_older(found)
        if found.action == _UNDONE:
            raise Fenced(f"{self._right.key!r} was undone, and is not to be done any more")
        self._is_found(found)

    def _begin_compensation(self, session: Session, undo_key: str) -> None:
        right = self._right
        found = _take(session, undo_key, _BEGUN, right.token)
        if found is not None:
            self._refuse_older(found)
            self._is_found(found)
            return
        execution = _take(session, right.key, _UNDONE, right.token)
        if execution is None or execution.action == _UNDONE:
            unrecorded = execution is None or execution.result == "null"
            if right.is_completed and unrecorded:
                # LockBay has it as done: the row is lost, or there never was one.
                if execution is not None:
                    self._refuse_older(execution)
                text = _lockbay.to_text("the original result", right.known)
                _write(session, right.key, _UNDONE, text)
                self.original_result = right.known
                return
            # It was never done, and can be done no more.
            _write(session, undo_key, _COMPENSATED, "null")
            self.is_done = True
            return
        self._refuse_older(execution)
        if execution.action == _BEGUN:
            _half_done(right.key)
        _write(session, right.key, _UNDONE, execution.result)
        self.original_result = _lockbay.from_text(execution.result)

    def _refuse_older(self, found: Any) -> None:
        if self._right.token < found.fencing_token:
            raise Fenced(
                f"{self._right.key!r} was recorded under the fencing token {found.fencing_token}, "
                f"and this attempt has the older {self._right.token}"
            )

    def _is_found(self, found: Any) -> None:
        if found.action == _BEGUN:
            _half_done(found.idempotency_key)
        if self._identity in _had:
            raise Invalid(
                f"this call has its effect already, as {found.idempotency_key!r}: give the second "
                "one a name"
            )
        self.is_done = True
        self._recorded = self.result = _lockbay.from_text(found.result)

    def _record(self, session: Any) -> None:
        right = self._right
        text = _lockbay.to_text("the result", self.result)
        if right.undo_key is None:
            _write(session, right.key, _EXECUTED, text)
        else:
            _write(session, right.undo_key, _COMPENSATED, text)
        # As every later attempt will get it.
        self.result = _lockbay.from_text(text)


class _Once(Effect):
    """One whose end is not that of the transaction.

    Its row and what the block does stand behind a savepoint, so that they go together when an
    exception that leaves the block does not end the transaction.
    """

    _savepoint: SessionTransaction

    def _begin(self, session: Any) -> None:
        if session.get_bind(clause=outbox).dialect.name == "sqlite":
            # Its driver begins a transaction where something is written, and not at a savepoint,
            # which would be the transaction then, and be committed at the end of the block.
            session.execute(sa.delete(outbox).where(sa.false()))
        self._savepoint = session.begin_nested()
        try:
            super()._begin(session)
        except BaseException:
            self._roll_back()
            raise

    def _end(self, session: Any, error: BaseException | None) -> None:
        if error is not None and not (self.is_done and isinstance(error, AlreadyDone)):
            self._roll_back()
            return
        try:
            super()._end(session, error)
            # Not if the block has ended the transaction.
            if self._savepoint.is_active:
                self._savepoint.commit()
        except BaseException:
            self._roll_back()
            raise
        # If the application rolls back, its row is not found, and nobody asks.
        self._was_had()

    def _roll_back(self) -> None:
        with suppress(ResourceClosedError):
            self._savepoint.rollback()


def once(session: Session | AsyncSession, call: Any, *, name: str = "") -> Effect:
    """The effect of a call in a transaction that the application commits itself.

    `call` is the `StepCall` of a saga (or the context that has it), a `Job` or a `Tick`. Begin it
    first in the transaction; whoever makes the same call meanwhile waits for its end. Names tell
    the effects of one call apart.

    The block runs in a savepoint. An exception that leaves it takes with it what the block did, and
    not what the transaction did before, which may be committed all the same.
    """
    return _Once(session, call, name)


def _take(session: Session, key: str, action: str, token: int) -> Any:
    """Writes the row of a key; gives the one that is there if somebody has done so before."""
    row = {"idempotency_key": key, "action": action, "fencing_token": token}
    if action == _UNDONE:
        row["result"] = "null"
    dialect = session.get_bind(clause=outbox).dialect.name
    if dialect == "postgresql":
        of_key = [outbox.c.idempotency_key]
        insert = postgresql.insert(outbox).values(row).on_conflict_do_nothing(index_elements=of_key)
        if session.scalar(insert.returning(outbox.c.idempotency_key)) is not None:
            return None
    elif dialect == "sqlite":
        ignoring = sqlite.insert(outbox).values(row).on_conflict_do_nothing()
        counting = ignoring.execution_options(preserve_rowcount=True)
        if session.execute(counting).rowcount == 1:  # type: ignore[attr-defined]
            return None
    else:
        try:
            with session.begin_nested():
                session.execute(sa.insert(outbox).values(row))
            return None
        except IntegrityError:
            pass
    found = sa.select(outbox).where(outbox.c.idempotency_key == key).with_for_update()
    return session.execute(found).one()


def _write(session: Session, key: str, action: str, result: str | None) -> None:
    row = sa.update(outbox).where(outbox.c.idempotency_key == key)
    written = session.execute(row.values(action=action, result=result))
    if written.rowcount != 1:  # type: ignore[attr-defined]
        raise Invalid(
            f"the transaction of {key!r} was rolled back inside of its block, and with it what the "
            "block had recorded: let the exception leave the block instead"
        )


def _half_done(key: str) -> NoReturn:
    raise UnknownOutcome(
        f"{key!r} was begun, and its transaction was committed before its block had ended: find "
        "out what of it was done, then set action and result of its row in lockbay_outbox"
    )


_Maker = sessionmaker[Any] | scoped_session[Any] | async_sessionmaker[Any]
_configured: _Maker | None = None


def configure(bind: sa.Engine | AsyncEngine | _Maker) -> None:
    """Says where `atomic_transaction` gets its sessions: an engine or a factory of sessions."""
    global _configured
    _configured = _maker(bind)


def _maker(bind: Any) -> _Maker:
    if isinstance(bind, sa.Engine):
        return sessionmaker(bind)
    if isinstance(bind, AsyncEngine):
        return async_sessionmaker(bind, expire_on_commit=False)
    if isinstance(bind, (sessionmaker, scoped_session, async_sessionmaker)):
        return bind
    raise Invalid(f"sessions come from an engine, a sessionmaker or a scoped_session, not {bind!r}")


class atomic_transaction:
    """A transaction: committed at the end of the block, rolled back by an exception.

    Without a call, the block gets a session. With the call of a step, job or tick, it gets its
    `Effect`, which happens once:

        with atomic_transaction(context.step) as effect:
            effect.session.add(Escrow(...))
            effect.result = {"escrow": ...}
        return effect.result

    A second effect of the same call needs a `name`, always the same one: also the one that undoes
    it has that. With an async engine, use `async with`.
    """

    def __init__(self, call: Any = None, *, name: str = "", bind: Any = None) -> None:
        maker = _configured if bind is None else _maker(bind)
        if maker is None:
            raise Invalid(
                "nothing says in which database: call configure(engine) of "
                "lockbay.utils.atomic_transactions once, or pass `bind`"
            )
        self._maker, self._call, self._name = maker, call, name

    def __enter__(self) -> Any:
        if isinstance(self._maker, async_sessionmaker):
            raise Invalid("the engine is asynchronous: use `async with atomic_transaction()`")
        self._inner = _transaction(self._maker, self._call, self._name)
        return self._inner.__enter__()

    def __exit__(self, *exception: Any) -> bool | None:
        return self._inner.__exit__(*exception)

    async def __aenter__(self) -> Any:
        if not isinstance(self._maker, async_sessionmaker):
            raise Invalid("the engine is not asynchronous: use `with atomic_transaction()`")
        self._inner_async = _async_transaction(self._maker, self._call, self._name)
        return await self._inner_async.__aenter__()

    async def __aexit__(self, *exception: Any) -> bool | None:
        return await self._inner_async.__aexit__(*exception)


@contextmanager
def _transaction(maker: Any, call: Any, name: str) -> Iterator[Any]:
    with maker() as session, session.begin():
        if call is None:
            yield session
            return
        with Effect(session, call, name) as effect:
            yield effect
    effect._was_had()


@asynccontextmanager
async def _async_transaction(
    maker: async_sessionmaker[Any], call: Any, name: str
) -> AsyncIterator[Any]:
    async with maker() as session, session.begin():
        if call is None:
            yield session
            return
        async with Effect(session, call, name) as effect:
            yield effect
    effect._was_had()
