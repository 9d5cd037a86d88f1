"""`manage.py lockbay_health`: 0 healthy, 1 unhealthy, 2 unreachable, as with `lockbay health`."""

from __future__ import annotations

import asyncio
import http.client
import json
import sys
import urllib.error
import urllib.request
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from lockbay._lockbay import LockBay
from lockbay.errors import LockBayError

HEALTHY, UNHEALTHY, UNREACHABLE = 0, 1, 2
_PATH = "/api/advanced-state/health"
_NOBODY = "leader_election: nobody leads, so no instance runs: start the application"


class Unreachable(Exception):
    """Nobody answers, or not with health."""


class Command(BaseCommand):
    """Prints health as a running application judges it, or as it shows in the store."""

    help = __doc__
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """What may be said on the command line."""
        parser.add_argument("--url", help="of a running application; else the store is looked at")
        parser.add_argument("--timeout", type=float, default=10.0, help="in seconds; 10")
        parser.add_argument("--json", action="store_true", help="print all of it, as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Prints it, and exits with its code."""
        try:
            if options["url"]:
                health = ask(options["url"], options["timeout"])
            else:
                health = asyncio.run(look(options["timeout"]))
        except Unreachable as error:
            self.stderr.write(f"unreachable: {error}")
            sys.exit(UNREACHABLE)
        if options["json"]:
            self.stdout.write(json.dumps(health, default=float, indent=2))
        else:
            self.stdout.write("healthy" if health["overall_healthy"] else "unhealthy")
            for kind in ("issues", "warnings"):
                for found in health.get(kind, ()):
                    self.stdout.write(f"{kind.removesuffix('s')}: {found}")
        sys.exit(HEALTHY if health["overall_healthy"] else UNHEALTHY)


def ask(url: str, timeout: float) -> dict[str, Any]:
    """Health as a running application judges it."""
    if not url.startswith(("http://", "https://")):
        raise Unreachable(f"{url!r} is no address of an application, such as http://127.0.0.1:8000")
    try:
        try:
            with urllib.request.urlopen(url.rstrip("/") + _PATH, timeout=timeout) as reply:
                text = reply.read()
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise Unreachable(f"{url} answers {error.code} {error.reason}") from None
            text = error.read()
        health = json.loads(text)
    except (OSError, ValueError) as error:
        raise Unreachable(f"{url}: {error}") from None
    except http.client.HTTPException as error:
        raise Unreachable(f"{url} answers, but with no whole HTTP: {error!r}") from None
    if not isinstance(health, dict) or "overall_healthy" not in health:
        raise Unreachable(f"{url} answers, but not with health")
    return health


async def look(timeout: float) -> dict[str, Any]:
    """Health as it shows in the store. It takes no part, so it never leads and does no work."""
    bay = LockBay()
    try:
        bay.configure_from(settings)
        async with asyncio.timeout(timeout):
            await bay.start(take_part=False)
            health: dict[str, Any] = dict(await bay.health())
            leader = await bay.leader.current() if health["state_manager_healthy"] else None
    except (LockBayError, TimeoutError) as error:
        raise Unreachable(str(error) or f"no answer within {timeout} s") from None
    finally:
        await bay.close()
    if not health["state_manager_healthy"]:
        raise Unreachable("; ".join(health["issues"]))
    if leader is None:
        health["issues"].append(_NOBODY)
        health["leader_election_healthy"] = health["overall_healthy"] = False
    return health
