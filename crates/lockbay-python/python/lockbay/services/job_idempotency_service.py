"""Jobs that run once: duplicates get the outcome of the first."""

from __future__ import annotations

from typing import Any, Callable, Mapping

from lockbay._process import bay
from lockbay.documents import JobInfo
from lockbay.services.advanced_state_management import advanced_state_manager

__all__ = ["JobIdempotencyService", "job_idempotency_service"]


class JobIdempotencyService:
    """The jobs of this process's instance."""

    async def execute_job(
        self,
        job_type: str,
        job_key: str,
        parameters: Mapping[str, Any] | None,
        job_handler: Callable[..., Any],
        **options: Any,
    ) -> tuple[bool, Any, str | None]:
        """See `execute_background_job_with_coordination`."""
        return await advanced_state_manager.execute_background_job(
            job_type, job_key, parameters, job_handler, **options
        )

    async def get_job(self, job_id: str) -> JobInfo:
        """A job as it stands."""
        return await bay.jobs.get(job_id)

    async def list_jobs(self, **filters: Any) -> list[JobInfo]:
        """Jobs that match, a page of them; see `LockBay.jobs.list`."""
        jobs, _ = await bay.jobs.list(**filters)
        return jobs

    def get_metrics(self) -> dict[str, Any]:
        """What this instance has counted of jobs."""
        return bay.counted("job_idempotency_metrics")


job_idempotency_service = JobIdempotencyService()
