"""Leadership: who leads, and what only the leader does."""

from __future__ import annotations

from typing import Any, Callable

from lockbay._process import bay
from lockbay.documents import EventName, LeaderInfo

__all__ = ["LeaderElection", "get_leader_info", "is_leader", "leader_election"]


class LeaderElection:
    """Leadership of this process's instance."""

    @property
    def instance_id(self) -> str:
        """The random identity of this instance."""
        return bay.instance_id

    @property
    def fencing_token(self) -> int | None:
        """Grows with every election; `None` where this instance does not lead."""
        return bay.leader.fencing_token

    def is_leader(self) -> bool:
        """Whether this instance may believe that it leads. Never true when it may not."""
        return bay.is_leader()

    def add_callback(self, event: EventName, callback: Callable[..., Any]) -> None:
        """Calls a function on `leader_elected`, `leader_lost` or any other event."""
        bay.on(event, callback)

    async def get_leader_info(self) -> LeaderInfo | None:
        """Who leads; `None` if nobody does."""
        return await bay.leader.current()

    async def resign(self) -> None:
        """Gives leadership up; another instance, or this one, is elected soon."""
        await bay.leader.resign()


leader_election = LeaderElection()


def is_leader() -> bool:
    """Whether this instance may believe that it leads."""
    return leader_election.is_leader()


async def get_leader_info() -> LeaderInfo | None:
    """Who leads; `None` if nobody does."""
    return await leader_election.get_leader_info()
