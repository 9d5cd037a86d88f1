//! `lockbay top`: a server at a glance, live.
//!
//! Looks are asked for in the background, so that keys are obeyed while a server does not answer.
//! The `state` changes by what arrives, and the `view` draws it. The terminal is put back in order
//! at the end, after a signal, and when something panics.

mod snapshot;
mod state;
mod view;

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use lockbay::clock::Clock;
use lockbay::config::Span;
use ratatui::DefaultTerminal;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::layout::Rect;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use self::snapshot::Snapshot;
use self::state::{State, Wish};
use super::client::{Client, Failure};
use super::{Ended, events, output};

/// The least time between two looks.
const LEAST_INTERVAL: Duration = Duration::from_millis(200);
/// How long a look may take.
const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// Between the two looks of one frame, from which its rates come.
const BETWEEN: Duration = Duration::from_secs(1);
/// How often the thread that waits for keys looks whether it is still wanted.
const KEYS_EVERY: Duration = Duration::from_millis(100);
/// What may wait to be shown.
const WAITING: usize = 256;
/// How large a frame is that goes to no terminal.
const PAGE: Rect = Rect { x: 0, y: 0, width: 120, height: 40 };

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// The time between two looks, such as 500ms or 5s
    #[arg(long, value_name = "TIME", default_value = "2s")]
    interval: Span,
    /// Write one frame as text, with rates of one second, and end
    #[arg(long)]
    once: bool,
}

/// What arrives.
enum News {
    Key(event::KeyEvent),
    Resized,
    Seen(Result<Snapshot, Failure>),
    Happened(String),
}

pub(super) async fn top(client: &Client, args: TopArgs) -> Result<Ended, Failure> {
    let interval = args.interval.0.max(LEAST_INTERVAL);
    let client = Arc::new(client.clone());
    let url = client.address(&[], &[]).url()?.to_string();
    if args.once {
        return once(&client, &url).await;
    }
    if client.json {
        return lines(&client, &url, interval).await;
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        let text = "top needs a terminal; --once writes one frame, --json one line for each look";
        return Err(Failure::Usage(text.into()));
    }
    // Whoever cannot be reached at all is told in words, not in a view.
    let first = look(&client).await?;
    let mut terminal = ratatui::try_init().context("cannot take the terminal over")?;
    let state = State::new(url, output::coloured());
    let done = live(&mut terminal, client, state, first, interval).await;
    ratatui::restore();
    done
}

async fn look(client: &Client) -> Result<Snapshot, Failure> {
    let clock = Clock::system();
    let asked = clock.timeout(LOOK_WITHIN, Snapshot::take(client, clock.tick())).await;
    asked.unwrap_or_else(|| {
        Err(Failure::Unreachable(format!("the server did not answer within {LOOK_WITHIN:?}")))
    })
}

/// One frame as text.
async fn once(client: &Client, url: &str) -> Result<Ended, Failure> {
    let mut state = State::new(url.to_owned(), false);
    state.saw(look(client).await?);
    Clock::system().sleep(BETWEEN).await;
    state.saw(look(client).await?);
    if let (true, Some(now)) = (client.json, &state.now) {
        output::data(&now.json(state.before(), url).to_string());
        return Ok(Ended::Done);
    }
    let mut buffer = Buffer::empty(PAGE);
    view::view(&state, PAGE, &mut buffer);
    let text: Vec<String> = (0..PAGE.height)
        .map(|row| {
            let cells = (0..PAGE.width).filter_map(|column| buffer.cell((column, row)));
            cells.map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()
        })
        .collect();
    output::data(text.join("\n").trim_end());
    Ok(Ended::Done)
}

/// One object a line, until somebody ends it. A server that went is told on stderr.
async fn lines(client: &Client, url: &str, interval: Duration) -> Result<Ended, Failure> {
    let clock = Clock::system();
    let mut before = None;
    loop {
        match look(client).await {
            Ok(now) => {
                output::data(&now.json(before.as_ref(), url).to_string());
                if output::is_unread() {
                    return Ok(Ended::Done);
                }
                before = Some(now);
            }
            Err(failure) if before.is_some() => {
                output::talk(&format!("lockbay: {}", failure.line()));
            }
            Err(failure) => return Err(failure),
        }
        clock.sleep(interval).await;
    }
}

/// The signals that end it: the terminal is then put back as it was.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind, name| signal(kind).with_context(|| format!("cannot listen for {name}"));
        Ok(Signals {
            terminate: listen(SignalKind::terminate(), "SIGTERM")?,
            interrupt: listen(SignalKind::interrupt(), "SIGINT")?,
            hang_up: listen(SignalKind::hangup(), "SIGHUP")?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

async fn live(
    terminal: &mut DefaultTerminal,
    client: Arc<Client>,
    mut state: State,
    first: Snapshot,
    interval: Duration,
) -> Result<Ended, Failure> {
    state.saw(first);
    let (sender, mut news) = channel(WAITING);
    let keys = sender.clone();
    std::thread::spawn(move || read_keys(&keys));
    tokio::spawn(follow(Arc::clone(&client), sender.clone()));
    let mut signals = Signals::listen()?;
    let clock = Clock::system();
    let mut asking = false;
    // A moment of its own: what arrives meanwhile does not put the next look off.
    let mut due = clock.tick() + interval;
    loop {
        let drawn = terminal.draw(|frame| view::view(&state, frame.area(), frame.buffer_mut()));
        drawn.context("cannot write to the terminal")?;
        let wish = tokio::select! {
            () = signals.any() => Wish::End,
            heard = hear(&mut news, &mut state, &mut asking) => heard,
            () = clock.sleep(due.since(clock.tick())), if !state.paused && !asking => Wish::Look,
        };
        match wish {
            Wish::End => return Ok(Ended::Done),
            Wish::Look if !asking => {
                asking = true;
                due = clock.tick() + interval;
                let (client, sender) = (Arc::clone(&client), sender.clone());
                tokio::spawn(async move {
                    let seen = look(&client).await;
                    // Nobody is left to see it when the view has ended.
                    drop(sender.send(News::Seen(seen)).await);
                });
            }
            Wish::Look | Wish::Nothing => {}
        }
    }
}

/// Takes in what has arrived; only waits for the first.
async fn hear(news: &mut Receiver<News>, state: &mut State, asking: &mut bool) -> Wish {
    let Some(mut next) = news.recv().await else { return Wish::End };
    loop {
        match next {
            News::Key(key) => match state.press(key) {
                Wish::Nothing => {}
                wish @ (Wish::Look | Wish::End) => return wish,
            },
            News::Resized => {}
            News::Happened(line) => state.happened(line),
            News::Seen(seen) => {
                *asking = false;
                match seen {
                    Ok(snapshot) => state.saw(snapshot),
                    Err(failure) => state.missed(failure.line()),
                }
            }
        }
        match news.try_recv() {
            Ok(more) => next = more,
            Err(_) => return Wish::Nothing,
        }
    }
}

/// Gives keys on until nobody wants them.
fn read_keys(to: &Sender<News>) {
    while !to.is_closed() {
        let Ok(true) = event::poll(KEYS_EVERY) else { continue };
        let told = match event::read() {
            Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => News::Key(key),
            Ok(Event::Resize(..)) => News::Resized,
            Ok(_) => continue,
            Err(_) => return,
        };
        if to.blocking_send(told).is_err() {
            return;
        }
    }
}

/// Gives events on, from now on, and comes back when the stream breaks.
async fn follow(client: Arc<Client>, to: Sender<News>) {
    let clock = Clock::system();
    let mut last: Option<String> = None;
    while !to.is_closed() {
        let url = client.address(&["v1", "events"], &[]);
        if let Ok(mut answer) = client.stream("follow events", url, last.as_deref()).await {
            let mut buffer = Vec::new();
            while let Ok(Some(bytes)) = answer.chunk().await {
                buffer.extend_from_slice(&bytes);
                while let Some(message) = events::Message::take(&mut buffer) {
                    last = message.id.or(last);
                    let Some((event, data)) = message.told else { continue };
                    let line = events::line(&event, &data);
                    if to.send(News::Happened(line)).await.is_err() {
                        return;
                    }
                }
                if buffer.len() > events::MAX_MESSAGE {
                    break;
                }
            }
        }
        clock.sleep(events::AGAIN_AFTER).await;
    }
}
