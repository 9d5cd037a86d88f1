//! Who may do what: tokens, the sessions that they begin, and whether anybody needs one.
//!
//! A token is a secret with a name, a role and perhaps an end. It is shown once, when it is made;
//! the store keeps what SHA-256 makes of it, which is as good as nothing to whoever reads it there,
//! because the secret has 256 random bits. A session stands for a token in a browser, under a secret
//! of its own, and ends with the token.
//!
//! A store is *open* until the first admin token is made, and *closed* from then on for good: that
//! the token ends, is revoked or is forgotten opens nothing. A mark in the store says so, which no
//! one deletes.
//!
//! Whether a token counts is asked for with every request, so the answer is kept for less than a
//! second: that long a revoked one may still be taken elsewhere, and not longer. While the store
//! cannot be asked, nobody is known; see [`Access::last_known`] for the one thing that is left.
//!
//! This knows nothing of HTTP: how a token travels, and which role which call needs, is the
//! server's business.

mod check;
mod memory;
mod record;
mod retire;
mod role;
mod secret;
mod service;
mod session;

pub use self::check::{Known, Standing};
pub use self::record::{TokenInfo, TokenStatus};
pub use self::role::Role;
pub use self::service::{Access, Expiry, Issued, LastAdmin, NewToken};
pub use self::session::{Begun, Session};

pub(crate) use self::record::SESSION;
