"""Retention, and invalidation of cached values."""

from __future__ import annotations

from typing import Any, Awaitable

from lockbay._process import View, bay
from lockbay.services.advanced_state_management import (
    add_cleanup_rule,
    force_cleanup,
    register_invalidation_pattern,
)

__all__ = [
    "TTLCleanupService",
    "add_cleanup_rule",
    "force_cleanup",
    "register_invalidation_pattern",
    "ttl_cleanup_service",
]


class TTLCleanupService:
    """The retention of this process's instance."""

    async def force_cleanup(self, rule: str | None = None, **options: Any) -> View:
        """Cleans up now, by all rules or by one."""
        return await force_cleanup(rule, **options)

    async def optimize_memory(self) -> View:
        """Gives memory back that the store holds and does not use."""
        return View(await bay.cleanup.optimize_memory())

    async def invalidate(self, **what: Any) -> int:
        """Invalidates keys, tags, a pattern, and whatever follows; how many."""
        return await bay.state.invalidate(**what)

    def add_cleanup_rule(self, name: str, pattern: str, ttl_seconds: float, **fields: Any) -> Awaitable[bool]:
        """Has a retention rule put. What is returned can be awaited."""
        return add_cleanup_rule(name, pattern, ttl_seconds, **fields)

    def register_invalidation_pattern(
        self, update_pattern: str, invalidate_patterns: list[str], *, name: str | None = None
    ) -> Awaitable[bool]:
        """Says what is invalidated when a key of this form changes."""
        return register_invalidation_pattern(update_pattern, invalidate_patterns, name=name)

    def get_metrics(self) -> dict[str, Any]:
        """What this instance has counted of cleanup."""
        return bay.counted("cleanup_metrics")


ttl_cleanup_service = TTLCleanupService()
