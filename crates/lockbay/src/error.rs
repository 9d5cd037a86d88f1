//! The one error of the crate.
//!
//! A kind exists only where a caller would act differently; everything else is the message.
//! `docs/errors.md` holds the table of kinds, HTTP statuses and what to do next.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// The result of nearly everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller should do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Somebody else holds the lease or the claim. Wait [`Error::retry_after`], then ask again.
    Held,
    /// A queue or a limit is full. Nothing was done; retry later.
    Busy,
    /// The right this call was made under is gone. Stop the work; do not retry.
    Fenced,
    /// The same key was used before with other parameters. The caller has a bug or an attacker.
    KeyReused,
    /// The business forbids it, such as too little money. Nothing was written, and asking again
    /// changes nothing until the world has changed.
    Refused,
    /// There is no such thing.
    NotFound,
    /// The request itself is wrong; the message says what and why. Nothing was written.
    Invalid,
    /// The caller has not shown who it is, or may not do this.
    Unauthorized,
    /// The store cannot be reached, and nothing was done. Retry later.
    Unavailable,
    /// The request may or may not have been carried out. Read before you repeat it.
    Unknown,
    /// The store has lost acknowledged data. Effects stay halted until an operator accepts it.
    RolledBack,
    /// A defect of ours. Nothing the caller did.
    Internal,
}

impl ErrorKind {
    /// Every kind, in the order of `docs/errors.md`.
    pub const ALL: [ErrorKind; 12] = [
        ErrorKind::Held,
        ErrorKind::Busy,
        ErrorKind::Fenced,
        ErrorKind::KeyReused,
        ErrorKind::Refused,
        ErrorKind::NotFound,
        ErrorKind::Invalid,
        ErrorKind::Unauthorized,
        ErrorKind::Unavailable,
        ErrorKind::Unknown,
        ErrorKind::RolledBack,
        ErrorKind::Internal,
    ];

    /// The stable name, as in `/problems/{name}`.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Held => "held",
            ErrorKind::Busy => "busy",
            ErrorKind::Fenced => "fenced",
            ErrorKind::KeyReused => "key-reused",
            ErrorKind::Refused => "refused",
            ErrorKind::NotFound => "not-found",
            ErrorKind::Invalid => "invalid",
            ErrorKind::Unauthorized => "unauthorized",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Unknown => "unknown-outcome",
            ErrorKind::RolledBack => "rolled-back",
            ErrorKind::Internal => "internal",
        }
    }

    /// Whether the same call may simply be made again later.
    ///
    /// `Unknown` is not: read first, or repeat under the same idempotency key.
    pub fn retryable(self) -> bool {
        match self {
            ErrorKind::Held | ErrorKind::Busy | ErrorKind::Unavailable => true,
            ErrorKind::Fenced
            | ErrorKind::KeyReused
            | ErrorKind::Refused
            | ErrorKind::NotFound
            | ErrorKind::Invalid
            | ErrorKind::Unauthorized
            | ErrorKind::Unknown
            | ErrorKind::RolledBack
            | ErrorKind::Internal => false,
        }
    }
}

/// What failed, with which value, and what to do next ([`Error::kind`]).
///
/// Messages are lowercase, carry their values last, and never a secret.
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
    retry_after: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Error { kind, message: message.into(), retry_after: None, source: None }
    }

    /// [`ErrorKind::Invalid`]: the request is wrong and nothing was written.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Error::new(ErrorKind::Invalid, message)
    }

    /// Keeps what caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says when a retry makes sense.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What failed, for a person.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// How long to wait before the next try, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}
