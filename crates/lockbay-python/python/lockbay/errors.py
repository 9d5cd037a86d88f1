"""What can go wrong, by what to do about it. Every error of this package is a `LockBayError`."""


class LockBayError(Exception):
    """The base of all errors.

    `kind` is its stable name, the one of HTTP's `/problems/{kind}`. `retryable` says whether the same
    call may simply be made again later, and `retry_after` in how many seconds that makes sense.
    """

    kind: str = "internal"
    retryable: bool = False
    retry_after: float | None

    def __init__(self, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Held(LockBayError):
    """Somebody else holds the lease or the claim, or leads. Wait `retry_after`, then ask again."""

    kind = "held"
    retryable = True


class Busy(LockBayError):
    """A queue or a limit is full. Nothing was done; ask again later."""

    kind = "busy"
    retryable = True


class Fenced(LockBayError):
    """The right this call was made under is gone. Stop the work; do not ask again."""

    kind = "fenced"


class KeyReused(LockBayError):
    """The same key was used before with other parameters."""

    kind = "key-reused"


class Refused(LockBayError):
    """The business forbids it, such as too little money. Nothing was written."""

    kind = "refused"


class NotFound(LockBayError):
    """There is no such thing."""

    kind = "not-found"


class Invalid(LockBayError, ValueError):
    """The request itself is wrong; the message says what and why. Nothing was written."""

    kind = "invalid"


class Unauthorized(LockBayError):
    """The caller has not shown who it is, or may not do this."""

    kind = "unauthorized"


class Unavailable(LockBayError):
    """The store cannot be reached, or nothing is open. Nothing was done; ask again later."""

    kind = "unavailable"
    retryable = True


class UnknownOutcome(LockBayError):
    """It may or may not have been carried out. Read before you repeat it."""

    kind = "unknown-outcome"


class RolledBack(LockBayError):
    """The store has lost acknowledged data. Effects stay halted until an operator accepts it."""

    kind = "rolled-back"


class Internal(LockBayError):
    """A defect of LockBay."""


class Failed(Exception):
    """Raised by a handler to say that there was no effect, and none will come.

    Any other exception leaves that open: a job is tried again within its retries, and a step of a
    saga counts as *unknown*. With `retryable`, another attempt may help.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


BY_KIND: dict[str, type[LockBayError]] = {
    error.kind: error
    for error in (
        Held,
        Busy,
        Fenced,
        KeyReused,
        Refused,
        NotFound,
        Invalid,
        Unauthorized,
        Unavailable,
        UnknownOutcome,
        RolledBack,
        Internal,
    )
}
