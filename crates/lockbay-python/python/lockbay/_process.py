"""The instance of this process, which the guide's modules share."""

from __future__ import annotations

from typing import Any

from lockbay._lockbay import LockBay

bay: LockBay = LockBay()


class View(dict[str, Any]):
    """A document whose members are attributes as well."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None
