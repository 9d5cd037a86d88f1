//! Certificates and keys from files in PEM, for the server and for its clients.
//!
//! An error names the setting or the flag and the file, and never shows what is in it.

use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The longest file that is read, in bytes; a whole collection of authorities has a third of it.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// What a file holds, and what it is for.
pub(crate) struct Pem {
    about: String,
    /// As they were read.
    pub(crate) bytes: Vec<u8>,
}

impl Pem {
    /// Reads the file that this setting or flag names.
    ///
    /// # Errors
    /// Why it cannot be read, or that it is too long.
    pub(crate) fn read(what: &str, path: &str) -> anyhow::Result<Self> {
        let about = format!("{what} {path:?}");
        let length = std::fs::metadata(path).with_context(|| about.clone())?.len();
        let most = MAX_FILE_BYTES;
        ensure!(length <= most, "{about}: it has {length} bytes, and at most {most} are read");
        let bytes = std::fs::read(Path::new(path)).with_context(|| about.clone())?;
        Ok(Pem { about, bytes })
    }

    /// Which file it is, and what for.
    pub(crate) fn about(&self) -> &str {
        &self.about
    }

    /// Its certificates, at least one.
    pub(crate) fn certificates(&self) -> anyhow::Result<Vec<CertificateDer<'static>>> {
        let about = &self.about;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        let chain = chain.map_err(|error| anyhow!("{about}: it is not PEM: {error}"))?;
        ensure!(!chain.is_empty(), "{about}: there is no certificate in it");
        Ok(chain)
    }

    /// Its certificates as those of authorities who are trusted.
    pub(crate) fn authorities(&self) -> anyhow::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            let added = roots.add(certificate);
            added.with_context(|| format!("{}: it is not of an authority", self.about))?;
        }
        Ok(roots)
    }

    /// Its private key.
    pub(crate) fn key(&self) -> anyhow::Result<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_slice(&self.bytes)
            .map_err(|error| anyhow!("{}: there is no private key in it: {error}", self.about))
    }
}
