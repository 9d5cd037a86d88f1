//! TLS of the server: certificates from files, which are read again when they change, and who the
//! owner of a client certificate is.
//!
//! What was read last and could be used is used; a change that cannot is told and has no effect.
//! Connections keep what they began with. Whether a certificate was revoked is not asked.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use lockbay::access::Role;
use lockbay::clock::{Clock, Timestamp};
use lockbay::config::Config;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{ServerConfig, ServerConnection};
use sha2::{Digest, Sha256};
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::access::ClientCertificate;
use crate::pem::Pem;

/// The time between two looks at the files.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// A certificate that ends sooner is warned about.
const ENDS_SOON: Duration = Duration::from_secs(14 * 86_400);
/// The last day of 9999, which says of a certificate that it has no end (RFC 5280), in seconds.
const NO_END: u64 = 253_402_214_400;

/// Whether clients show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientAuth {
    None,
    Optional,
    Required,
}

/// The files and rules, as the settings say.
struct Rules {
    cert: String,
    key: String,
    client_ca: Option<String>,
    client_auth: ClientAuth,
    /// By the common names of subjects. Without any, a certificate names nobody.
    roles: Option<Vec<(String, Role)>>,
}

/// What the files held.
struct Files {
    cert: Pem,
    key: Pem,
    client_ca: Option<Pem>,
}

/// How connections are encrypted now.
pub(crate) struct Tls {
    rules: Rules,
    /// What was looked at last, whether it could be used or not.
    seen: watch::Sender<[u8; 32]>,
    current: watch::Sender<Arc<ServerConfig>>,
}

/// Who is at the other end of a connection, as far as its certificate says.
pub(super) enum Client {
    /// No certificate counts: none was shown, or none names anybody.
    Unnamed,
    /// The owner of this one.
    Named(ClientCertificate),
    /// The owner of one to whom the settings give no role, where they ask for one.
    Stranger(String),
}

impl Tls {
    /// TLS by the settings; none if they name no certificate.
    ///
    /// # Errors
    /// Which setting or file is wrong, and why.
    pub(crate) fn of(config: &Config, clock: &Clock) -> anyhow::Result<Option<Self>> {
        let Some(rules) = Rules::of(config)? else { return Ok(None) };
        let files = rules.read()?;
        let current = rules.build(&files)?;
        warn_of_end(&files, clock.now());
        let (seen, current) = (watch::Sender::new(files.digest()), watch::Sender::new(current));
        Ok(Some(Tls { rules, seen, current }))
    }

    /// Whether nobody comes in without a certificate.
    pub(crate) fn requires_certificates(&self) -> bool {
        self.rules.client_auth == ClientAuth::Required
    }

    /// What accepts the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.borrow()))
    }

    /// Reads the files again whenever they have changed, and on each of these signals, until the
    /// server stops.
    pub(crate) async fn keep_fresh(
        self: Arc<Self>,
        clock: Clock,
        mut hangup: Signal,
        stopping: CancellationToken,
    ) {
        loop {
            let told = tokio::select! {
                () = stopping.cancelled() => return,
                () = clock.sleep(LOOK_AGAIN_AFTER) => false,
                _ = hangup.recv() => true,
            };
            let (tls, now) = (Arc::clone(&self), clock.now());
            // Files may lie on something slow.
            let looked = tokio::task::spawn_blocking(move || tls.look_again(now, told)).await;
            if let Err(error) = looked {
                tracing::error!(%error, "the certificate was not looked at");
            }
        }
    }

    /// Takes over what the files hold, if that is new or was asked for.
    fn look_again(&self, now: Timestamp, asked: bool) {
        let read = self.rules.read();
        // A file that is not there is not told every few seconds.
        let digest = match &read {
            Ok(files) => files.digest(),
            Err(error) => digest([format!("{error:#}").as_bytes()]),
        };
        let is_new = self.seen.send_replace(digest) != digest;
        if !is_new && !asked {
            return;
        }
        let built = read.and_then(|files| {
            let built = self.rules.build(&files)?;
            warn_of_end(&files, now);
            Ok(built)
        });
        match built {
            Ok(config) => {
                self.current.send_replace(config);
                tracing::info!(cert = self.rules.cert, "tls_reloaded");
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(error, "tls_not_reloaded: what was read before stays in use");
            }
        }
    }

    /// Who a connection comes from.
    pub(super) fn client(&self, connection: &ServerConnection) -> Client {
        let leaf = connection.peer_certificates().and_then(<[_]>::first);
        match leaf {
            Some(leaf) => self.rules.client(leaf),
            None => Client::Unnamed,
        }
    }
}

impl Rules {
    fn of(config: &Config) -> anyhow::Result<Option<Self>> {
        let client_auth = match config.tls_client_auth.as_str() {
            "none" => ClientAuth::None,
            "optional" => ClientAuth::Optional,
            "required" => ClientAuth::Required,
            other => bail!(
                "setting tls_client_auth (LOCKBAY_TLS_CLIENT_AUTH): none, optional or required, \
                 not {other:?}"
            ),
        };
        let roles = config.tls_client_roles.as_deref().map(roles).transpose()?;
        let (cert, key) = match (&config.tls_cert, &config.tls_key) {
            (Some(cert), Some(key)) => (cert.clone(), key.clone()),
            (None, None) => {
                let rest = config.tls_client_ca.is_some() || roles.is_some();
                ensure!(
                    client_auth == ClientAuth::None && !rest,
                    "settings tls_client_…: certificates of clients need one of the server; set \
                     tls_cert and tls_key"
                );
                return Ok(None);
            }
            (Some(_), None) => bail!("setting tls_key (LOCKBAY_TLS_KEY): tls_cert needs it"),
            (None, Some(_)) => bail!("setting tls_cert (LOCKBAY_TLS_CERT): tls_key needs it"),
        };
        let client_ca = config.tls_client_ca.clone();
        match (client_auth, &client_ca, &roles) {
            (ClientAuth::None, None, None)
            | (ClientAuth::Optional | ClientAuth::Required, Some(_), _) => {}
            (ClientAuth::None, _, _) => bail!(
                "setting tls_client_auth (LOCKBAY_TLS_CLIENT_AUTH): tls_client_ca and \
                 tls_client_roles need optional or required"
            ),
            (ClientAuth::Optional | ClientAuth::Required, None, _) => {
                bail!("setting tls_client_ca (LOCKBAY_TLS_CLIENT_CA): tls_client_auth needs it")
            }
        }
        Ok(Some(Rules { cert, key, client_ca, client_auth, roles }))
    }

    fn read(&self) -> anyhow::Result<Files> {
        let client_ca = self.client_ca.as_deref();
        Ok(Files {
            cert: Pem::read("setting tls_cert (LOCKBAY_TLS_CERT)", &self.cert)?,
            key: Pem::read("setting tls_key (LOCKBAY_TLS_KEY)", &self.key)?,
            client_ca: client_ca
                .map(|path| Pem::read("setting tls_client_ca (LOCKBAY_TLS_CLIENT_CA)", path))
                .transpose()?,
        })
    }

    fn build(&self, files: &Files) -> anyhow::Result<Arc<ServerConfig>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .context("cannot set up TLS")?;
        let builder = match &files.client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let roots = Arc::new(pem.authorities()?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let verifier = match self.client_auth {
                    ClientAuth::Required => verifier,
                    ClientAuth::Optional | ClientAuth::None => verifier.allow_unauthenticated(),
                };
                let verifier = verifier.build().with_context(|| pem.about().to_owned())?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let (cert, key) = (&files.cert, &files.key);
        let mut config = builder
            .with_single_cert(cert.certificates()?, key.key()?)
            .with_context(|| format!("{} and {}", cert.about(), key.about()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// Who owns a certificate that was verified.
    fn client(&self, leaf: &CertificateDer<'_>) -> Client {
        let subject = common_name(leaf).unwrap_or_default();
        let Some(roles) = &self.roles else { return Client::Unnamed };
        let role = roles.iter().find(|(name, _)| *name == subject).map(|(_, role)| *role);
        match (role, self.client_auth) {
            (Some(role), _) => {
                let fingerprint = Sha256::digest(leaf);
                let fingerprint = fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
                let not_after = end_of(leaf);
                Client::Named(ClientCertificate {
                    subject_cn: subject,
                    fingerprint,
                    role,
                    not_after,
                })
            }
            (None, ClientAuth::Required) => Client::Stranger(subject),
            (None, ClientAuth::Optional | ClientAuth::None) => Client::Unnamed,
        }
    }
}

impl Files {
    fn digest(&self) -> [u8; 32] {
        let client_ca = self.client_ca.as_ref().map(|pem| &pem.bytes[..]);
        digest([&self.cert.bytes[..], &self.key.bytes, client_ca.unwrap_or_default()])
    }
}

fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(Sha256::digest(part));
    }
    digest.finalize().into()
}

/// Roles as they are set: `ops:operator,backup:viewer`.
fn roles(text: &str) -> anyhow::Result<Vec<(String, Role)>> {
    let wrong = |why: String| anyhow!("setting tls_client_roles (LOCKBAY_TLS_CLIENT_ROLES): {why}");
    let mut roles: Vec<(String, Role)> = Vec::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let Some((name, role)) = pair.rsplit_once(':') else {
            return Err(wrong(format!("pairs are like ops:operator, not {pair:?}")));
        };
        let (name, role) = (name.trim(), role.trim());
        let role = role.parse::<Role>().map_err(|error| wrong(error.to_string()))?;
        if name.is_empty() {
            return Err(wrong(format!("a common name is not empty, as it is in {pair:?}")));
        }
        if roles.iter().any(|(other, _)| other == name) {
            return Err(wrong(format!("{name:?} has two roles")));
        }
        roles.push((name.to_owned(), role));
    }
    Ok(roles)
}

/// The one common name of a certificate's subject. Of several none counts: which one an authority
/// has checked cannot be told.
fn common_name(leaf: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?;
    let is_plain = !name.is_empty() && !name.chars().any(char::is_control);
    (is_plain && names.next().is_none()).then(|| name.to_owned())
}

/// When a certificate ends; none if it has no end.
fn end_of(leaf: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
    (end < NO_END).then(|| Timestamp::from_micros(end.saturating_mul(1_000_000)))
}

/// Says that the certificate of the server is over, or will be soon.
fn warn_of_end(files: &Files, now: Timestamp) {
    let cert = files.cert.about();
    let leaf = files.cert.certificates().ok().and_then(|chain| chain.into_iter().next());
    let Some(end) = leaf.as_ref().and_then(end_of) else { return };
    let left = end.since(now);
    if left.is_zero() {
        tracing::warn!(%end, "the certificate is over, and clients will refuse it: {cert}");
    } else if left < ENDS_SOON {
        tracing::warn!(%end, "the certificate ends soon: {cert}");
    }
}
