//! Opening the store that a URL names.

use std::path::Path;
use std::sync::Arc;

use super::Store;
use super::memory::MemoryStore;
use crate::clock::Clock;
use crate::error::{Error, Result};

/// The namespace when a URL names none.
const DEFAULT_NAMESPACE: &str = "lockbay";

/// Opens `sqlite:PATH`, `memory:`, `redis://…` or `rediss://…`; `?namespace=NAME` separates
/// applications in one store.
///
/// # Errors
/// `Invalid` for a URL that names no store of this build, `Unavailable` if it cannot be reached.
pub async fn open(url: &str, clock: &Clock) -> Result<Arc<dyn Store>> {
    let (url, namespace) = take_namespace(url)?;
    let (scheme, rest) = url.split_once(':').ok_or_else(|| unknown(&url))?;
    match scheme {
        "memory" => Ok(Arc::new(MemoryStore::new(clock.clone()))),
        "sqlite" => open_sqlite(Path::new(rest), &namespace, clock).await,
        "redis" | "rediss" => open_redis(&url, &namespace, clock).await,
        _ => Err(unknown(scheme)),
    }
}

#[cfg(feature = "sqlite")]
async fn open_sqlite(path: &Path, namespace: &str, clock: &Clock) -> Result<Arc<dyn Store>> {
    if path.as_os_str().is_empty() {
        return Err(Error::invalid("sqlite: needs a path, such as sqlite:lockbay-data/lockbay.db"));
    }
    Ok(Arc::new(super::sqlite::SqliteStore::open(path, namespace, clock.clone())?))
}

#[cfg(not(feature = "sqlite"))]
async fn open_sqlite(_: &Path, _: &str, _: &Clock) -> Result<Arc<dyn Store>> {
    Err(Error::invalid("this build has no SQLite store: enable the feature sqlite"))
}

#[cfg(feature = "redis")]
async fn open_redis(url: &str, namespace: &str, clock: &Clock) -> Result<Arc<dyn Store>> {
    Ok(Arc::new(super::redis::RedisStore::open(url, namespace, clock.clone()).await?))
}

#[cfg(not(feature = "redis"))]
async fn open_redis(_: &str, _: &str, _: &Clock) -> Result<Arc<dyn Store>> {
    Err(Error::invalid("this build has no Redis store: enable the feature redis"))
}

fn unknown(scheme: &str) -> Error {
    // The scheme alone: the rest of a URL may hold a password.
    let scheme = scheme.split(':').next().unwrap_or_default();
    Error::invalid(format!(
        "a store is sqlite:PATH, memory:, redis://… or rediss://…; there is no store {scheme:?}"
    ))
}

/// The namespace that a URL names, or that of URLs that name none.
///
/// # Errors
/// `Invalid` if no namespace can have that name.
pub fn namespace_of(url: &str) -> Result<String> {
    take_namespace(url).map(|(_, namespace)| namespace)
}

/// Takes our own query parameter off a URL.
fn take_namespace(url: &str) -> Result<(String, String)> {
    let Some((base, query)) = url.split_once('?') else {
        return Ok((url.to_owned(), DEFAULT_NAMESPACE.to_owned()));
    };
    let mut namespace = DEFAULT_NAMESPACE.to_owned();
    let mut others = Vec::new();
    for part in query.split('&') {
        match part.strip_prefix("namespace=") {
            Some(name) => namespace = name.to_owned(),
            None => others.push(part),
        }
    }
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if namespace.is_empty() || namespace.len() > 64 || !namespace.chars().all(fine) {
        return Err(Error::invalid(format!(
            "a namespace has 1 to 64 letters, digits, hyphens, dots or underscores: {namespace:?}"
        )));
    }
    let rest =
        if others.is_empty() { base.to_owned() } else { format!("{base}?{}", others.join("&")) };
    Ok((rest, namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_taken_off_the_url() {
        let (url, namespace) = take_namespace("rediss://h/0?ca=x.pem&namespace=pay").unwrap();
        assert_eq!((url.as_str(), namespace.as_str()), ("rediss://h/0?ca=x.pem", "pay"));
        assert!(take_namespace("memory:?namespace=a/b").is_err());
    }

    #[tokio::test]
    async fn an_unknown_store_is_refused_without_showing_its_password() {
        let error = open("mysql://root:secret@host", &Clock::system()).await.err().unwrap();
        assert!(error.to_string().contains("mysql") && !error.to_string().contains("secret"));
    }
}
