//! A real redis-server of one's own, on a free loopback port, gone when dropped.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::{block, now};

/// How long a server may take to answer PONG.
const START_LIMIT: Duration = Duration::from_secs(15);

/// A running server. Persists every commit (`appendfsync always`) unless told otherwise.
pub struct RedisServer {
    dir: TempDir,
    port: u16,
    extra: Vec<String>,
    tls: Option<Tls>,
    process: Option<Child>,
}

/// What a server with TLS needs.
struct Tls {
    port: u16,
    ca: PathBuf,
}

impl RedisServer {
    /// A server with an append-only file that is synced before every answer.
    pub fn start() -> Self {
        RedisServer::start_with(&[])
    }

    /// The same with more lines of configuration; later lines win.
    pub fn start_with(extra: &[&str]) -> Self {
        let extra = extra.iter().map(|line| (*line).to_owned()).collect();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut server = RedisServer { dir, port: free_port(), extra, tls: None, process: None };
        server.restart();
        server
    }

    /// A server that also listens with TLS, under a certificate of its own authority.
    pub fn start_with_tls() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        let tls = make_certificates(&dir, free_port());
        let extra = ["cert-file cert.pem", "key-file key.pem", "ca-cert-file ca.pem"];
        let mut extra: Vec<_> = extra.iter().map(|line| format!("tls-{line}")).collect();
        extra.extend([format!("tls-port {}", tls.port), "tls-auth-clients no".into()]);
        let mut server = RedisServer { dir, port, extra, tls: Some(tls), process: None };
        server.restart();
        server
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Where it is with TLS, with its authority.
    pub fn tls_url(&self) -> String {
        let tls = self.tls.as_ref().expect("started with TLS");
        format!("rediss://localhost:{}?ca={}", tls.port, tls.ca.display())
    }

    /// The port without TLS.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it again, on the same port and data, and waits until it answers.
    pub fn restart(&mut self) {
        self.stop();
        let config = self.dir.path().join("redis.conf");
        let mut lines = vec![
            format!("port {}", self.port),
            "bind 127.0.0.1".into(),
            format!("dir {}", self.dir.path().display()),
            "appendonly yes".into(),
            "appendfsync always".into(),
            "save \"\"".into(),
        ];
        lines.extend(self.extra.iter().cloned());
        fs::write(&config, lines.join("\n")).expect("the configuration is written");
        let log = fs::File::create(self.dir.path().join("log")).expect("the log is created");
        let child = Command::new("redis-server")
            .arg(&config)
            .current_dir(self.dir.path())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        self.process = Some(child);
        let since = now();
        while !self.answers() {
            assert!(since.elapsed() < START_LIMIT, "no PONG; log:\n{}", self.log());
            block();
        }
    }

    /// What it logged since it was started last.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn answers(&self) -> bool {
        // With a password it says NOAUTH, which is an answer too.
        let reply = self.try_command(&["PING"]).unwrap_or_default();
        reply.starts_with("+PONG") || reply.starts_with("-NOAUTH")
    }

    /// Kills it as a crash does: no farewell, no flush.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.process.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it has ended");
        }
    }

    /// Ends it in order, if it runs.
    pub fn stop(&mut self) {
        if self.process.is_some() {
            self.signal("CONT");
            self.signal("TERM");
        }
        if let Some(mut child) = self.process.take() {
            child.wait().expect("it has ended");
        }
    }

    /// Stops its process as a machine that hangs does: connections stay, nothing answers.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.process.as_ref().expect("it runs").id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().expect("kill runs");
        assert!(status.success(), "kill -s {name} {pid}");
    }

    /// Removes all its data.
    pub fn flush_all(&self) {
        assert_eq!(self.command(&["FLUSHALL"]), "+OK\r\n");
    }

    /// Sends one command and returns the raw reply.
    pub fn command(&self, words: &[&str]) -> String {
        self.try_command(words).expect("the server answers")
    }

    fn try_command(&self, words: &[&str]) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request += &format!("${}\r\n{word}\r\n", word.len());
        }
        // QUIT ends the connection, so the reply is all there is before its +OK.
        stream.write_all((request + "*1\r\n$4\r\nQUIT\r\n").as_bytes())?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        Ok(reply.strip_suffix("+OK\r\n").unwrap_or(&reply).to_owned())
    }

    /// Copies its data, as a backup does.
    pub fn backup(&self) -> Backup {
        let copy = tempfile::tempdir().expect("a temporary directory");
        copy_dir(&self.dir.path().join("appendonlydir"), copy.path());
        Backup(copy)
    }

    /// Stops it, puts a backup in the place of its data, and starts it again.
    pub fn restore(&mut self, backup: &Backup) {
        self.stop();
        let data = self.dir.path().join("appendonlydir");
        fs::remove_dir_all(&data).expect("the data is removed");
        copy_dir(backup.0.path(), &data);
        self.restart();
    }
}

/// A copy of a server's data.
pub struct Backup(TempDir);

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.process.take() {
            // It may have ended by itself; there is nobody to tell.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port that nobody uses now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("it has an address").port()
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).expect("the directory is created");
    for entry in fs::read_dir(from).expect("the data is there") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a file is copied");
    }
}

fn make_certificates(dir: &TempDir, port: u16) -> Tls {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_cert = ca.self_signed(&ca_key).expect("a certificate");
    let key = KeyPair::generate().expect("a key");
    let issuer = Issuer::from_params(&ca, &ca_key);
    let names = vec!["localhost".to_owned()];
    let cert = CertificateParams::new(names).expect("parameters").signed_by(&key, &issuer);
    let write = |name: &str, pem: String| {
        fs::write(dir.path().join(name), pem).expect("a file is written");
    };
    write("ca.pem", ca_cert.pem());
    write("cert.pem", cert.expect("a certificate").pem());
    write("key.pem", key.serialize_pem());
    Tls { port, ca: dir.path().join("ca.pem") }
}
