//! Whom the command line trusts when it speaks https, and what it shows of itself.

use anyhow::Context;
use clap::Args;
use rustls::{ClientConfig, RootCertStore};

use crate::outbound::{tls, tls_trusting};
use crate::pem::Pem;

/// Certificates of a client.
#[derive(Debug, Default, Args)]
pub(super) struct Trust {
    /// PEM file of the authorities that are trusted for https, in place of those of browsers
    #[arg(
        long,
        global = true,
        env = "LOCKBAY_CA_CERT",
        hide_env_values = true,
        value_name = "FILE"
    )]
    ca_cert: Option<String>,
    /// PEM file of a certificate to show the server, with --client-key
    #[arg(
        long,
        global = true,
        env = "LOCKBAY_CLIENT_CERT",
        hide_env_values = true,
        value_name = "FILE"
    )]
    client_cert: Option<String>,
    /// PEM file of the private key of that certificate
    #[arg(
        long,
        global = true,
        env = "LOCKBAY_CLIENT_KEY",
        hide_env_values = true,
        value_name = "FILE"
    )]
    client_key: Option<String>,
}

impl Trust {
    /// TLS by rustls and ring, for a server with or without https.
    ///
    /// # Errors
    /// Which file is wrong, and why; or which flag is missing.
    pub(super) fn tls(&self, is_https: bool) -> anyhow::Result<ClientConfig> {
        let named = |path: &'_ Option<String>| path.clone().filter(|path| !path.is_empty());
        let roots = match named(&self.ca_cert) {
            Some(path) if is_https => Pem::read("--ca-cert", &path)?.authorities()?,
            // Over plain http nobody shows a certificate.
            Some(_) | None if !is_https => RootCertStore::empty(),
            Some(_) | None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
        };
        let (cert, key) = match (named(&self.client_cert), named(&self.client_key)) {
            (Some(cert), Some(key)) if is_https => (cert, key),
            (Some(_), None) => anyhow::bail!("--client-cert needs --client-key"),
            (None, Some(_)) => anyhow::bail!("--client-key needs --client-cert"),
            (Some(_), Some(_)) | (None, None) => return tls(roots),
        };
        let (cert, key) = (Pem::read("--client-cert", &cert)?, Pem::read("--client-key", &key)?);
        tls_trusting(roots)?
            .with_client_auth_cert(cert.certificates()?, key.key()?)
            .with_context(|| format!("{} and {}", cert.about(), key.about()))
    }
}
