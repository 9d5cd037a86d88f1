//! Callbacks on events, on the loop of the instance: in order, one at a time.
//!
//! Edges of leadership come from the leadership itself, which drops none; all other events from the
//! bus, which may drop some for a callback that is too slow, and says so then.

use std::sync::Arc;

use lockbay::event::Told;
use lockbay::leader::{Edge, Edges};
use lockbay::{Json, LockBay};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::ask::{Question, ask};
use crate::error::report;
use crate::home::Home;
use crate::json::from_json;

/// A function that is called on every event of one name.
#[derive(Clone)]
pub(crate) struct Callback {
    event: Arc<str>,
    function: Arc<Py<PyAny>>,
    /// Whether it takes the event; one without parameters is called without.
    takes_event: TakesEvent,
}

#[derive(Clone, Copy)]
enum TakesEvent {
    Yes,
    No,
}

impl Callback {
    pub(crate) fn new(py: Python<'_>, event: &str, function: Py<PyAny>) -> PyResult<Self> {
        let takes =
            py.import("lockbay._loop")?.getattr("takes_an_argument")?.call1((&function,))?;
        let takes_event = if takes.is_truthy()? { TakesEvent::Yes } else { TakesEvent::No };
        Ok(Callback { event: event.into(), function: Arc::new(function), takes_event })
    }

    /// What it calls.
    pub(crate) fn function(&self) -> &Py<PyAny> {
        &self.function
    }

    /// Calls it at home, from now on until the instance ends. Needs a Tokio runtime.
    pub(crate) fn listen(&self, bay: &LockBay, home: &Home) {
        let source = match &*self.event {
            "leader_elected" | "leader_lost" => Source::Edges(bay.leadership().subscribe()),
            _ => Source::Bus(bay.subscribe()),
        };
        let (callback, at) = (self.clone(), home.clone());
        home.listeners().spawn(async move {
            match source {
                Source::Edges(edges) => callback.follow_edges(edges, at).await,
                Source::Bus(events) => callback.follow_bus(events, at).await,
            }
        });
    }

    async fn follow_edges(&self, mut edges: Edges, home: Home) {
        loop {
            let edge = match edges.next().await {
                Ok(Some(edge)) => edge,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, event = %self.event, "a callback is too slow");
                    continue;
                }
            };
            let (name, event) = match edge {
                Edge::Elected { term, token } => (
                    "leader_elected",
                    format!(
                        r#"{{"event":"leader_elected","term":{term},"fencing_token":{token}}}"#
                    ),
                ),
                Edge::Lost { term, reason } => (
                    "leader_lost",
                    format!(
                        r#"{{"event":"leader_lost","term":{term},"reason":"{}"}}"#,
                        reason.name()
                    ),
                ),
            };
            if name == &*self.event {
                self.call(&home, event).await;
            }
        }
    }

    async fn follow_bus(&self, mut events: Receiver<Told>, home: Home) {
        loop {
            match events.recv().await {
                Ok(told) if told.event.name() == &*self.event => {
                    // What is told can always be written.
                    let event = serde_json::to_string(&told).unwrap_or_default();
                    self.call(&home, event).await;
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, event = %self.event, "events missed by a slow callback");
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn call(&self, home: &Home, event: String) {
        // Between two loops of the application it waits for the next.
        let Some(home) = home.open().await else { return };
        let takes_event = self.takes_event;
        let arguments = move |py: Python<'_>| {
            let event = match takes_event {
                TakesEvent::Yes => vec![from_json(py, &Json::parse(event).unwrap_or_default())?],
                TakesEvent::No => Vec::new(),
            };
            Ok((PyTuple::new(py, event)?.unbind(), None))
        };
        let name = Arc::clone(&self.event);
        let question = Question { function: Arc::clone(&self.function), context: None };
        let heard = ask(&home, question, arguments, move |py, answer| {
            if let Err(error) = answer {
                report(py, &format!("a callback on {name}"), &error);
            }
        });
        heard.await;
    }
}

enum Source {
    Edges(Edges),
    Bus(Receiver<Told>),
}
