//! Real servers for tests: start one, talk to it, hurt it, read what it logged.
//!
//! A [`Server`] is the built binary in a process of its own on a free loopback port. Several may
//! share one SQLite file. Dropping one kills its process, by its id and no other.

#![allow(dead_code)] // each test file uses its part of this

pub(crate) mod caller;
pub(crate) mod http;
pub(crate) mod money;
pub(crate) mod openapi;
pub(crate) mod schema;
pub(crate) mod sink;
pub(crate) mod tls;

use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lockbay::clock::Clock;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use http::Reply;

/// How long a server may take to start, and conditions to come true.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A server in a process of its own.
pub(crate) struct Server {
    child: Child,
    scheme: String,
    address: SocketAddr,
    log: Arc<Mutex<String>>,
    /// Closed when the process has ended.
    ended: Mutex<Receiver<Infallible>>,
}

impl Server {
    /// Starts `lockbay serve` with these arguments, on a free port, and waits until it listens.
    pub(crate) fn start(args: &[&str]) -> Server {
        Server::start_with(args, &[])
    }

    /// As [`start`](Server::start), with settings in the environment.
    pub(crate) fn start_with(args: &[&str], environment: &[(&str, &str)]) -> Server {
        let mut command = lockbay();
        command.arg("serve").args(args).env("LOCKBAY_LISTEN", "127.0.0.1:0");
        command.envs(environment.iter().copied());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let (tell_address, address) = channel();
        let (alive, ended) = channel();
        let copy = Arc::clone(&log);
        std::thread::spawn(move || {
            let _alive = alive; // dropped at the end of the log, which is the end of the process
            for line in stderr.lines().map_while(Result::ok) {
                copy.lock().expect("the log is whole").push_str(&format!("{line}\n"));
                if let Some(address) = listening(&line) {
                    let _ = tell_address.send(address);
                }
            }
        });
        match address.recv_timeout(PATIENCE) {
            Ok((scheme, address)) => {
                Server { child, scheme, address, log, ended: Mutex::new(ended) }
            }
            Err(_) => {
                let _ = child.kill();
                let log = log.lock().expect("the log is whole");
                panic!("the server did not start to listen; it said:\n{log}");
            }
        }
    }

    /// Its base address.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has written to stderr so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("the log is whole").clone()
    }

    /// Sends a request and gives the answer.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        http::send(self.address, method, path, headers, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}; log:\n{}", self.log()))
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Reply {
        self.send("POST", path, &[http::JSON], body.as_bytes())
    }

    pub(crate) fn put(&self, path: &str, body: &str) -> Reply {
        self.send("PUT", path, &[http::JSON], body.as_bytes())
    }

    pub(crate) fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, &[], b"")
    }

    /// The id of its instance.
    pub(crate) fn instance_id(&self) -> String {
        let metrics = self.get("/api/advanced-state/metrics").json();
        metrics["instance_id"].as_str().expect("an instance id").to_owned()
    }

    /// Who leads, if anybody does.
    pub(crate) fn leader(&self) -> Option<Value> {
        let reply = self.get("/v1/leader");
        (reply.status == 200).then(|| reply.json())
    }

    /// Waits until this server leads.
    pub(crate) fn wait_until_leading(&self) {
        eventually("this server leads", || {
            self.leader().filter(|leader| leader["is_self"] == true)
        });
    }

    /// The most memory that the process has taken so far, in MiB, as the kernel tells it.
    pub(crate) fn peak_memory_mib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("the server runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.expect("the kernel tells it") / 1_024
    }

    /// How many files and connections the process has open, as the kernel tells it.
    pub(crate) fn open_files(&self) -> usize {
        let path = format!("/proc/{}/fd", self.child.id());
        std::fs::read_dir(path).expect("the server runs").count()
    }

    /// The same when nobody talks to it: the connections of earlier calls are closed in a moment.
    pub(crate) fn open_files_at_rest(&self) -> usize {
        let looks = (0..40).map(|_| {
            breathe(Duration::from_millis(5));
            self.open_files()
        });
        looks.min().expect("there were looks")
    }

    /// A number of the part of its metrics document that is about sagas.
    pub(crate) fn saga_metric(&self, name: &str) -> u64 {
        let metrics = self.get("/api/advanced-state/metrics").ok();
        metrics["saga_metrics"][name].as_u64().expect("a metric of sagas")
    }

    /// Claims a job and lets it fail for good, which is an event. Gives its id.
    pub(crate) fn fail_job(&self, key: &str, error: &str) -> String {
        let body = json!({ "job_type": "t", "job_key": key, "parameters": {} });
        let job = self.post("/v1/jobs/claim", &body.to_string()).ok();
        let id = job["job_id"].as_str().expect("text").to_owned();
        let body = json!({ "claim_token": job["claim_token"], "error": error, "retryable": false });
        self.post(&format!("/v1/jobs/{id}/fail"), &body.to_string()).ok();
        id
    }

    /// Every saga of a status, page by page.
    pub(crate) fn sagas(&self, status: &str) -> Vec<Value> {
        let (mut sagas, mut token) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("/v1/sagas?status={status}&page_size=1000{token}")).ok();
            sagas.extend(page["items"].as_array().expect("a page").iter().cloned());
            let Some(next) = page["next_page_token"].as_str() else { return sagas };
            token = format!("&page_token={next}");
        }
    }

    /// Resumes whatever is parked until every saga has ended; how often that was needed.
    pub(crate) fn bring_sagas_to_an_end(&self, patience: Duration) -> usize {
        let mut resumed = 0;
        let pause = Duration::from_millis(100);
        eventually_within(patience, pause, "every saga has ended", || {
            for saga in self.sagas("parked") {
                let id = saga["saga_id"].as_str().expect("an id");
                let why = r#"{"reason":"what was in the way is gone"}"#;
                let reply = self.post(&format!("/v1/sagas/{id}/resume"), why);
                // Others may have been faster, or it was not to be.
                assert!([200, 409, 422].contains(&reply.status), "{}", reply.text());
                resumed += usize::from(reply.status == 200);
            }
            let open = ["pending", "running", "compensating", "parked"];
            open.iter().all(|status| self.sagas(status).is_empty()).then_some(())
        });
        resumed
    }

    /// Ends the process as a power cut would.
    pub(crate) fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to read its files again.
    pub(crate) fn sighup(&self) {
        self.signal(Signal::HUP);
    }

    /// Asks it to end.
    pub(crate) fn sigterm(&self) {
        self.signal(Signal::TERM);
    }

    /// Freezes it: a zombie that believes in its old rights.
    pub(crate) fn sigstop(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn sigcont(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("our child takes signals");
    }

    /// Waits for its end, which must come within `limit`.
    pub(crate) fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        let ended = self.ended.get_mut().expect("nobody panicked on it").recv_timeout(limit);
        match ended {
            Err(RecvTimeoutError::Disconnected) => self.child.wait().expect("our child ends"),
            Err(RecvTimeoutError::Timeout) => {
                panic!("the server still runs after {limit:?}; log:\n{}", self.log())
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill9();
    }
}

fn listening(line: &str) -> Option<(String, SocketAddr)> {
    let (_, rest) = line.split_once("listening on ")?;
    let (scheme, rest) = rest.split_once("://")?;
    Some((scheme.to_owned(), rest.split_whitespace().next()?.parse().ok()?))
}

/// The binary, away from settings of whoever runs the tests.
pub(crate) fn lockbay() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockbay"));
    let ours = std::env::vars().filter(|(name, _)| name.starts_with("LOCKBAY_"));
    for (name, _) in ours {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1").env_remove("RUST_LOG");
    command
}

/// Runs a command against a server to its end.
pub(crate) fn run(server: &Server, args: &[&str]) -> Output {
    let mut command = lockbay();
    command.args(args).env("LOCKBAY_URL", server.url()).stdin(Stdio::null());
    command.output().expect("the binary runs")
}

/// Waits until `condition` gives something, and gives it.
pub(crate) fn eventually<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, Duration::from_millis(2), what, condition)
}

/// The same with another patience, and another pause between two looks.
pub(crate) fn eventually_within<T>(
    patience: Duration,
    pause: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let clock = Clock::system();
    let started = clock.tick();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(clock.tick().since(started) < patience, "waited {patience:?} in vain until {what}");
        breathe(pause);
    }
}

/// Lets others work for a moment.
pub(crate) fn breathe(pause: Duration) {
    std::thread::park_timeout(pause);
}

/// How much of something a test does: what the environment says, or its default.
pub(crate) fn size(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|size| size.parse().ok()).unwrap_or(default)
}
