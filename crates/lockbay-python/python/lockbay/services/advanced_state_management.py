"""The unifying manager: one instance of LockBay for this process, and functions on it."""

from __future__ import annotations

import logging
import sys
from typing import Any, Awaitable, Callable, Mapping

from lockbay._process import View, bay
from lockbay.documents import EventName, LeaderInfo, Metrics, ScheduleInfo
from lockbay.errors import Fenced, Invalid, LockBayError, UnknownOutcome

__all__ = [
    "AdvancedStateManager",
    "add_cleanup_rule",
    "advanced_state_manager",
    "execute_background_job_with_coordination",
    "execute_financial_cashout_saga",
    "execute_financial_escrow_saga",
    "force_cleanup",
    "get_system_health",
    "get_system_metrics",
    "initialize_advanced_state_management",
    "register_invalidation_pattern",
    "schedule_leader_only_job",
    "shutdown_advanced_state_management",
]

logger = logging.getLogger(__name__)


class AdvancedStateManager:
    """The instance of this process, by the guide's names."""

    async def initialize(self, config: Any = None, **settings: Any) -> bool:
        """Opens and starts the instance; whether that worked.

        Settings come from the environment, from an application's `config.Config` if that is given,
        and from keywords; each takes precedence over the one before. If none is given, and the
        application has imported a module named `config`, what stands in that or in its `Config`
        counts where the environment says nothing.
        """
        try:
            if config is not None:
                bay.configure_from(config)
            elif (application := sys.modules.get("config")) is not None:
                bay.default_to(application)
            bay.configure(**settings)
            await bay.start()
        except LockBayError as error:
            logger.error("advanced state management was not initialized: %s", error)
            return False
        return True

    async def shutdown(self) -> None:
        """Resigns, lets handlers finish, and closes the store."""
        await bay.close()

    def is_leader(self) -> bool:
        """Whether this instance may believe that it leads. Never true when it may not.

        It may lose leadership at any moment after this: what must run on the leader alone is a job
        with `leader_only`, or writes under the fencing token.
        """
        return bay.is_leader()

    def add_callback(self, event: EventName, callback: Callable[..., Any]) -> None:
        """Calls a function on every event of this name, in order; see `lockbay.EVENTS`.

        A function with a parameter gets the event.
        """
        bay.on(event, callback)

    async def get_leader_info(self) -> LeaderInfo | None:
        """Who leads; `None` if nobody does."""
        return await bay.leader.current()

    async def execute_escrow_saga(
        self, buyer_id: int | str, seller_id: int | str, amount: Any, currency: str, **options: Any
    ) -> str:
        """See `execute_financial_escrow_saga`."""
        return await bay.escrow(buyer_id, seller_id, amount, currency, **options)

    async def execute_cashout_saga(
        self, user_id: int | str, amount: Any, currency: str, destination: str, **options: Any
    ) -> str:
        """See `execute_financial_cashout_saga`."""
        return await bay.cashout(user_id, amount, currency, destination, **options)

    async def execute_background_job(
        self,
        job_type: str,
        job_key: str,
        parameters: Mapping[str, Any] | None,
        job_handler: Callable[..., Any],
        leader_only: bool = False,
        **options: Any,
    ) -> tuple[bool, Any, str | None]:
        """See `execute_background_job_with_coordination`."""
        given = None if parameters is None else dict(parameters)
        try:
            outcome = await bay.run_job(
                job_type,
                job_key,
                job_handler,
                given,
                by_name=True,
                leader_only=leader_only,
                **options,
            )
        except (Invalid, Fenced, UnknownOutcome):
            # The request is wrong, or may have been carried out: neither is a job that failed.
            raise
        except LockBayError as error:
            return False, None, str(error)
        return outcome.as_tuple()

    async def schedule_leader_only_job(
        self,
        job_id: str,
        job_handler: Callable[..., Any],
        schedule_expression: str,
        **options: Any,
    ) -> ScheduleInfo:
        """See `schedule_leader_only_job`."""
        bay.schedules.register(job_id, job_handler)
        return await bay.schedules.put(job_id, schedule_expression, job_id, **options)

    async def get_system_health(self) -> View:
        """See `get_system_health`."""
        return View(await bay.health())

    async def get_system_metrics(self) -> Metrics:
        """See `get_system_metrics`."""
        return await bay.metrics()

    async def force_cleanup(self, rule: str | None = None, **options: Any) -> View:
        """See `force_cleanup`."""
        return View(await bay.cleanup.run(rule, **options))


advanced_state_manager = AdvancedStateManager()


async def initialize_advanced_state_management(config: Any = None, **settings: Any) -> bool:
    """Opens and starts the instance of this process; whether that worked. The log says why not."""
    return await advanced_state_manager.initialize(config, **settings)


async def shutdown_advanced_state_management() -> None:
    """Resigns, lets handlers finish, and closes the store."""
    await advanced_state_manager.shutdown()


async def execute_financial_escrow_saga(
    buyer_id: int | str, seller_id: int | str, amount: Any, currency: str, **options: Any
) -> str:
    """Sets a buyer's money apart for a seller; gives the id of the saga, which is the escrow's.

    The saga is durable when this returns, and is rolled back if a step of it fails. With an
    `idempotency_key`, the same request is the same saga.
    """
    return await advanced_state_manager.execute_escrow_saga(
        buyer_id, seller_id, amount, currency, **options
    )


async def execute_financial_cashout_saga(
    user_id: int | str, amount: Any, currency: str, destination: str, **options: Any
) -> str:
    """Pays a user out; gives the id of the saga. With an `idempotency_key`, once for each key."""
    return await advanced_state_manager.execute_cashout_saga(
        user_id, amount, currency, destination, **options
    )


async def execute_background_job_with_coordination(
    job_type: str,
    job_key: str,
    parameters: Mapping[str, Any] | None,
    job_handler: Callable[..., Any],
    leader_only: bool = False,
    **options: Any,
) -> tuple[bool, Any, str | None]:
    """Runs a job once, and gives `(success, result, error)`; a duplicate gets the same.

    The handler is called with the parameters by name. It also gets `idempotency_token`,
    `fencing_token`, `attempt` and `job` if it has parameters of these names. Options are those of
    `LockBay.run_job`. What may have been carried out is no failure: `UnknownOutcome` and `Fenced`
    are raised, and so is `Invalid`.
    """
    return await advanced_state_manager.execute_background_job(
        job_type, job_key, parameters, job_handler, leader_only, **options
    )


async def schedule_leader_only_job(
    job_id: str, job_handler: Callable[..., Any], schedule_expression: str, **options: Any
) -> ScheduleInfo:
    """Runs a function at times, on the leader: a cron expression, or an interval as `every 30s`.

    Call it on every instance, since any may lead. Each tick is a job, so none is lost or run twice
    when leadership moves. Options are those of `LockBay.schedules.put`.
    """
    return await advanced_state_manager.schedule_leader_only_job(
        job_id, job_handler, schedule_expression, **options
    )


async def get_system_health() -> View:
    """Health, judged by what happened: `overall_healthy`, `issues` and the rest, as attributes."""
    return await advanced_state_manager.get_system_health()


async def get_system_metrics() -> Metrics:
    """Everything that this instance counts and measures, by groups."""
    return await advanced_state_manager.get_system_metrics()


async def force_cleanup(rule: str | None = None, **options: Any) -> View:
    """Cleans up now, by all rules or by one; what was scanned, cleaned and freed."""
    return await advanced_state_manager.force_cleanup(rule, **options)


def add_cleanup_rule(name: str, pattern: str, ttl_seconds: float, **fields: Any) -> Awaitable[bool]:
    """Has a retention rule put: at once if the instance is open, else when it is.

    What is returned can be awaited, to know that it is kept.
    """
    return bay.cleanup.add_rule(name, pattern=pattern, ttl_seconds=ttl_seconds, **fields)


def register_invalidation_pattern(
    update_pattern: str, invalidate_patterns: list[str], *, name: str | None = None
) -> Awaitable[bool]:
    """Says what is invalidated when a key of this form changes. What is returned can be awaited."""
    return bay.state.add_rule(name or update_pattern, update_pattern, list(invalidate_patterns))
