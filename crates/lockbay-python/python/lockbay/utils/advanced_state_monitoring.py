"""Health reports, alert rules, and what was measured."""

from __future__ import annotations

from typing import Any, Awaitable

from lockbay._process import bay
from lockbay.documents import ActiveAlert, Operator, Report, Severity
from lockbay.services.advanced_state_management import initialize_advanced_state_management

__all__ = [
    "add_custom_alert_rule",
    "get_active_alerts",
    "get_health_report",
    "start_advanced_monitoring",
    "stop_advanced_monitoring",
]


async def start_advanced_monitoring() -> bool:
    """Initializes the instance if it is not open. Monitoring is part of it; whether it runs."""
    return bay.is_open or await initialize_advanced_state_management()


async def stop_advanced_monitoring() -> None:
    """Does nothing: monitoring ends with the instance, so that nothing runs unwatched."""


async def get_health_report(hours: int = 24) -> Report:
    """What a person at night should know: health, work done, trends, alerts, and what to do."""
    return await bay.report(hours)


async def get_active_alerts() -> list[ActiveAlert]:
    """The alerts that fire."""
    report = await bay.report(1)
    return report["active_alerts"]


def add_custom_alert_rule(
    name: str,
    metric_path: str,
    operator: Operator,
    threshold: float,
    window_minutes: int = 5,
    severity: Severity = "warning",
    **fields: Any,
) -> Awaitable[bool]:
    """Has an alert rule put: at once if the instance is open, else when it is.

    A counter is judged by its exact increase over the window, so that the alert resolves. What is
    wrong with the rule is raised at once. What is returned can be awaited, to know that it is kept.
    """
    return bay.alerts.add_rule(
        name,
        metric_path=metric_path,
        operator=operator,
        threshold=threshold,
        window_minutes=window_minutes,
        severity=severity,
        **fields,
    )
