"""Transactions of the application's database, and effects in them that happen exactly once."""

from __future__ import annotations

from lockbay.integrations.sqlalchemy import (
    Effect,
    atomic_transaction,
    configure,
    create_outbox,
    forget,
    once,
)

__all__ = ["Effect", "atomic_transaction", "configure", "create_outbox", "forget", "once"]
