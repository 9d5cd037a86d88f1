//! An authority, the certificates that it gives, and a client that speaks TLS and says anything.

use std::io::{Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::http::{Reply, read_reply};

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Whoever gives certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Given {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Its own certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a server on this machine.
    pub(crate) fn server(&self, common_name: &str) -> Given {
        self.give(&[common_name], vec!["localhost".into(), "127.0.0.1".into()])
    }

    /// A certificate for a client with these common names.
    pub(crate) fn client(&self, common_names: &[&str]) -> Given {
        self.give(common_names, Vec::new())
    }

    /// The same until this moment, in seconds since 1970.
    pub(crate) fn client_until(&self, common_name: &str, end: u64) -> Given {
        self.give_until(&[common_name], Vec::new(), Some(end))
    }

    fn give(&self, common_names: &[&str], names: Vec<String>) -> Given {
        self.give_until(common_names, names, None)
    }

    fn give_until(&self, common_names: &[&str], names: Vec<String>, end: Option<u64>) -> Given {
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in common_names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        if let Some(end) = end {
            params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(end);
        }
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        Given { cert: cert.pem(), key: key.serialize_pem() }
    }
}

/// Files in a directory of a test.
pub(crate) struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    pub(crate) fn new() -> Files {
        Files { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    /// Where a file of this name is.
    pub(crate) fn path(&self, name: &str) -> String {
        let path: PathBuf = Path::join(self.directory.path(), name);
        path.to_str().expect("UTF-8").to_owned()
    }

    /// Writes a file, in place of one of the same name at once.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let (path, new) = (self.path(name), self.path(&format!("{name}.new")));
        std::fs::write(&new, text).expect("the directory is there");
        std::fs::rename(&new, &path).expect("the directory is there");
        path
    }
}

/// A client that trusts one authority, and shows a certificate if it has one.
pub(crate) struct TlsClient {
    config: Arc<ClientConfig>,
}

impl TlsClient {
    pub(crate) fn new(authority: &Authority, shows: Option<&Given>) -> TlsClient {
        TlsClient::offering(authority, shows, &[])
    }

    /// The same with protocols to choose from.
    pub(crate) fn offering(
        authority: &Authority,
        shows: Option<&Given>,
        protocols: &[&[u8]],
    ) -> TlsClient {
        let mut roots = RootCertStore::empty();
        let own = CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM");
        roots.add(own).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("usual versions")
            .with_root_certificates(roots);
        let mut config = match shows {
            None => builder.with_no_client_auth(),
            Some(Given { cert, key }) => {
                let cert = CertificateDer::from_pem_slice(cert.as_bytes()).expect("PEM");
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
                builder.with_client_auth_cert(vec![cert], key).expect("they fit")
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        TlsClient { config: Arc::new(config) }
    }

    /// A connection on which TLS is agreed.
    pub(crate) fn connect(
        &self,
        to: SocketAddr,
    ) -> Result<StreamOwned<ClientConnection, TcpStream>> {
        let mut stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        let name = ServerName::try_from("localhost").expect("a name");
        let mut connection =
            ClientConnection::new(Arc::clone(&self.config), name).map_err(std::io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(StreamOwned::new(connection, stream))
    }

    /// Asks for this path.
    pub(crate) fn get(&self, to: SocketAddr, path: &str) -> Result<Reply> {
        let mut stream = self.connect(to)?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        read_reply(&answer, read)
    }

    /// Asks for this with these headers.
    pub(crate) fn send(
        &self,
        to: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Reply> {
        let mut stream = self.connect(to)?;
        let lines: String =
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Length: {length}\r\n{lines}\r\n{body}"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        read_reply(&answer, read)
    }

    /// The certificate that a server shows.
    pub(crate) fn shown(&self, to: SocketAddr) -> Vec<u8> {
        let stream = self.connect(to).expect("TLS is agreed");
        let chain = stream.conn.peer_certificates().expect("servers show certificates");
        chain[0].to_vec()
    }
}
