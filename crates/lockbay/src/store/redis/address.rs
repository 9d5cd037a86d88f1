//! From a URL to a client of the `redis` crate: TLS, timeouts, and our own query parameters.
//!
//! A URL may hold a password, so no error here repeats it.

use std::time::Duration;

use redis::{AsyncConnectionConfig, Client, TlsCertificates};

use crate::error::{Error, Result};

/// How long connecting may take, greeting and TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the server may take to answer before it is asked again over a new connection. Long
/// enough for a disk that is slow to sync, and short enough that a lease of 5 s survives one
/// connection that has silently died.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(1_500);

/// A client for `redis://` or `rediss://`, with user, password and database as usual.
///
/// `?ca=PATH` names a PEM file with the certificates to trust instead of the public ones.
pub(super) fn client(url: &str) -> Result<Client> {
    let (url, ca) = split(url)?;
    let client = match ca {
        None => Client::open(url),
        Some(path) => {
            let pem = std::fs::read(&path).map_err(|error| {
                Error::invalid(format!("cannot read the certificates of redis: {path}"))
                    .with_source(error)
            })?;
            Client::build_with_tls(url, TlsCertificates { client_tls: None, root_cert: Some(pem) })
        }
    };
    let wrong = |error| Error::invalid("not a usable redis URL").with_source(error);
    let info = client.map_err(wrong)?.get_connection_info().clone();
    if let redis::ConnectionAddr::TcpTls { .. } = info.addr() {
        install_provider();
    }
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    Client::open(info.set_tcp_settings(tcp)).map_err(wrong)
}

/// Timeouts and queues of a connection.
pub(super) fn settings() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
        .set_pipeline_buffer_size(1_024)
        .set_write_backpressure_boundary(256 * 1024)
}

/// Takes our own parameters out of the URL.
fn split(url: &str) -> Result<(String, Option<String>)> {
    let mut parsed = redis::parse_redis_url(url)
        .ok_or_else(|| Error::invalid("not a redis URL; expected redis://host:port"))?;
    let (ours, theirs): (Vec<_>, Vec<_>) =
        parsed.query_pairs().into_owned().partition(|(name, _)| name == "ca");
    parsed.set_query(None);
    if !theirs.is_empty() {
        parsed.query_pairs_mut().extend_pairs(&theirs);
    }
    let ca = ours.into_iter().next().map(|(_, path)| path);
    if ca.is_some() && !matches!(parsed.scheme(), "rediss" | "valkeys") {
        return Err(Error::invalid("`ca` needs a rediss:// URL"));
    }
    Ok((parsed.to_string(), ca))
}

/// rustls has no cryptography of its own until somebody chooses it for the process.
fn install_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Somebody else may have been first since we looked; theirs serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_parameters_do_not_reach_the_client() {
        let (url, ca) = split("rediss://h:1/2?ca=/etc/a%20b.pem&protocol=resp3").unwrap();
        assert_eq!(url, "rediss://h:1/2?protocol=resp3");
        assert_eq!(ca.as_deref(), Some("/etc/a b.pem"));
        let (url, ca) = split("redis://h:1").unwrap();
        assert!(url.starts_with("redis://h:1") && !url.contains('?'), "{url}");
        assert_eq!(ca, None);
    }

    #[test]
    fn a_wrong_url_is_refused_without_repeating_its_password() {
        for url in ["http://u:secret@h", "redis://u:secret@h/x", "redis://u:secret@h?ca=/ca.pem"] {
            let error = client(url).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        }
    }
}
