//! A TCP proxy before a Redis server that loses replies, delays them, and counts round trips.
//!
//! It reads the client's commands one by one (RESP arrays), so a fault hits exactly the command it
//! is meant for. Greetings (`CLIENT`, `HELLO`, `AUTH`, `SELECT`) are forwarded and not counted.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lockbay::clock::Clock;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// A running proxy; it ends, with all its connections, when dropped.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

struct State {
    target: SocketAddr,
    commands: AtomicU64,
    /// How many commands are still to be forwarded whose connection is then cut.
    lose: AtomicU64,
    lost: AtomicU64,
    /// Whether the next command is kept here, and its connection cut.
    keep: AtomicBool,
    kept: Mutex<Option<Vec<u8>>>,
    delay_us: AtomicU64,
    /// Bumped to cut every connection.
    cut: watch::Sender<u64>,
}

impl Proxy {
    /// A proxy before the server at this port.
    pub async fn start(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it has an address");
        let state = Arc::new(State {
            target: SocketAddr::from(([127, 0, 0, 1], port)),
            commands: AtomicU64::new(0),
            lose: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            keep: AtomicBool::new(false),
            kept: Mutex::default(),
            delay_us: AtomicU64::new(0),
            cut: watch::Sender::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Proxy { address, state, accepting }
    }

    /// The way through it.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Commands that clients have sent: the round trips, as long as nobody pipelines.
    pub fn commands(&self) -> u64 {
        self.state.commands.load(Ordering::SeqCst)
    }

    /// Loses the replies to the next `count` commands: each is forwarded, carried out by the
    /// server, and its connection is cut.
    pub fn lose_replies(&self, count: u64) {
        self.state.lose.store(count, Ordering::SeqCst);
    }

    /// How many replies it has lost.
    pub fn lost(&self) -> u64 {
        self.state.lost.load(Ordering::SeqCst)
    }

    /// Keeps the next command, as a network does that delivers late, and cuts its connection.
    pub fn keep_next(&self) {
        self.state.keep.store(true, Ordering::SeqCst);
    }

    /// Delivers the command that was kept, and returns the start of what the server says to it.
    pub async fn deliver_kept(&self) -> String {
        let kept = self.state.kept.lock().expect("nobody panics here").take();
        let kept = kept.expect("a command was kept");
        let mut server = TcpStream::connect(self.state.target).await.expect("the server is up");
        server.write_all(&kept).await.expect("it reads");
        let mut reply = [0; 4096];
        let length = server.read(&mut reply).await.expect("it answers");
        String::from_utf8_lossy(&reply[..length]).into_owned()
    }

    /// Holds every command up for this long from now on.
    pub fn delay(&self, delay: Duration) {
        let micros = u64::try_from(delay.as_micros()).expect("a short time");
        self.state.delay_us.store(micros, Ordering::SeqCst);
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        self.state.cut.send_modify(|times| *times += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((client, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let mut cut = state.cut.subscribe();
            let Ok(server) = TcpStream::connect(state.target).await else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            // Whichever ends first ends the other, and both sockets close.
            tokio::select! {
                () = serve(&state, client, server) => {}
                _ = cut.changed() => {}
            }
        });
    }
}

/// Carries commands one way and replies the other until a fault or the end.
async fn serve(state: &State, client: TcpStream, server: TcpStream) {
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let losing = AtomicBool::new(false);
    let (send, receive) = mpsc::channel(64);
    tokio::select! {
        () = read_commands(client_in, send) => {}
        () = carry_commands(state, receive, server_out, &losing) => {}
        () = carry_replies(state, server_in, client_out, &losing) => {}
    }
}

async fn read_commands(client: OwnedReadHalf, commands: mpsc::Sender<Command>) {
    let mut client = BufReader::new(client);
    while let Some(command) = read_command(&mut client).await {
        if commands.send(command).await.is_err() {
            return;
        }
    }
}

async fn carry_commands(
    state: &State,
    mut commands: mpsc::Receiver<Command>,
    mut server: OwnedWriteHalf,
    losing: &AtomicBool,
) {
    while let Some(command) = commands.recv().await {
        if command.counts {
            state.commands.fetch_add(1, Ordering::SeqCst);
            let delay = state.delay_us.load(Ordering::SeqCst);
            Clock::system().sleep(Duration::from_micros(delay)).await;
            let take = |left: u64| left.checked_sub(1);
            let lost = state.lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
            losing.fetch_or(lost.is_ok(), Ordering::SeqCst);
            if state.keep.swap(false, Ordering::SeqCst) {
                *state.kept.lock().expect("nobody panics here") = Some(command.bytes);
                return;
            }
        }
        if server.write_all(&command.bytes).await.is_err() {
            return;
        }
    }
}

async fn carry_replies(
    state: &State,
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    losing: &AtomicBool,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = server.read(&mut buffer).await {
        if losing.load(Ordering::SeqCst) {
            // It has answered, so it has carried the command out.
            state.lost.fetch_add(1, Ordering::SeqCst);
            return;
        }
        if client.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

struct Command {
    bytes: Vec<u8>,
    counts: bool,
}

/// Reads one command; `None` at the end of the stream.
async fn read_command(client: &mut BufReader<OwnedReadHalf>) -> Option<Command> {
    let mut bytes = Vec::new();
    let items = read_head(client, &mut bytes, b'*').await?;
    let mut name = String::new();
    for item in 0..items {
        let length = read_head(client, &mut bytes, b'$').await?;
        let start = bytes.len();
        bytes.resize(start + length + 2, 0);
        client.read_exact(&mut bytes[start..]).await.ok()?;
        if item == 0 {
            name = String::from_utf8_lossy(&bytes[start..start + length]).to_uppercase();
        }
    }
    let counts = !matches!(name.as_str(), "CLIENT" | "HELLO" | "AUTH" | "SELECT");
    Some(Command { bytes, counts })
}

async fn read_head(
    client: &mut BufReader<OwnedReadHalf>,
    bytes: &mut Vec<u8>,
    mark: u8,
) -> Option<usize> {
    let start = bytes.len();
    client.read_until(b'\n', bytes).await.ok()?;
    let line = std::str::from_utf8(&bytes[start..]).ok()?;
    line.trim_end().strip_prefix(char::from(mark))?.parse().ok()
}
