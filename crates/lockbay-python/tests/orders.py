"""The side of the workers: orders are read and answered, and what must outlive them is noted.

Knows nothing of what is ordered. It is told by `processes.py`, whose words these are.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

Obey = Callable[[str, dict[str, Any]], Awaitable[Any]]


async def serve(obey: Obey) -> None:
    """Says that it is ready, and does what it is told, all at once, until nobody tells it more."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    say(call=0, answer="open")
    async with asyncio.TaskGroup() as answers:
        while line := await reader.readline():
            answers.create_task(answer(obey, *json.loads(line)))


async def answer(obey: Obey, call: int, order: str, given: dict[str, Any]) -> None:
    try:
        said = await obey(order, given)
    except Exception:
        say(call=call, error=traceback.format_exc())
    else:
        say(call=call, answer=said)


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def note(path: Path, **what: Any) -> None:
    """Adds a line to what several processes write down, whole."""
    line = json.dumps({"at": time.monotonic(), **what}) + "\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)
