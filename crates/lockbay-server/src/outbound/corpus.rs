//! Everything by which a caller may try to reach through us what only we can reach, against the code
//! that calls: the steps of sagas, payouts and webhooks.
//!
//! The URLs and names are in `tests/data`. A URL must be refused as it is written; a name passes as
//! it is written and must be refused where it is resolved, each time.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lockbay::LockBay;
use lockbay::clock::Clock;
use lockbay::config::{Config, Hidden};
use lockbay::saga::{Caller as _, Endpoint};
use lockbay::store::memory::Memory;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::RootCertStore;

use super::call::{CallError, Caller, Ground, Post};
use super::handlers::Handlers;
use super::payout::payout_provider;
use super::receiver::{Receiver, answer};
use super::vet::{Reach, vet_url};
use super::{alert, tell_of_alerts};

const URLS: &str = include_str!("../../tests/data/ssrf_urls.txt");
const NAMES: &str = include_str!("../../tests/data/ssrf_names.txt");

fn lines(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines().filter(|line| !line.starts_with('#') && !line.is_empty())
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint { url: url.to_owned(), secret: None, timeout_us: None }
}

fn bay(config: Config) -> LockBay {
    let clock = Clock::system();
    LockBay::with_store(config, Arc::new(Memory::new(clock.clone()).client()), clock)
}

#[test]
fn the_corpus_is_large_and_says_nothing_twice() {
    let mut urls: Vec<&str> = lines(URLS).collect();
    let count = urls.len();
    urls.sort_unstable();
    urls.dedup();
    assert_eq!(urls.len(), count);
    assert!(count >= 300, "{count} URLs");
    assert!(lines(NAMES).count() >= 40);
}

#[tokio::test]
async fn no_url_of_the_corpus_is_taken_by_anything_that_calls() {
    let handlers = Handlers::new(Clock::system(), Reach::Public).unwrap();
    let mut taken = Vec::new();
    for url in lines(URLS) {
        if handlers.check(&endpoint(url)).is_ok() {
            taken.push(format!("as a handler: {url}"));
        }
        let config = Config { alert_webhook_url: Some(Hidden(url.into())), ..Config::default() };
        if tell_of_alerts(&bay(config), &handlers).is_ok() {
            taken.push(format!("as a webhook: {url}"));
        }
        let config = Config { payout_provider: url.into(), ..Config::default() };
        if payout_provider(&bay(config), &handlers).is_ok() {
            taken.push(format!("as an endpoint of payouts: {url}"));
        }
    }
    assert!(taken.is_empty(), "{} are taken:\n{}", taken.len(), taken.join("\n"));
}

/// A record may be older than the rules: a step is vetted again when it is called.
#[tokio::test]
async fn a_url_of_the_corpus_that_was_recorded_long_ago_is_not_called() {
    let handlers = Handlers::new(Clock::system(), Reach::Public).unwrap();
    for url in lines(URLS) {
        let step = handlers.step("charge", &endpoint(url));
        let asked = super::step::tests::context(&Clock::system(), lockbay::saga::Action::Execute);
        let refused = step.execute(asked).await;
        assert!(refused.is_err(), "{url} was called");
    }
}

/// Resolves the names of the corpus; what it gives for one turn is counted.
struct Book {
    names: HashMap<String, Vec<SocketAddr>>,
    asked: AtomicUsize,
}

impl Resolve for Book {
    fn resolve(&self, name: Name) -> Resolving {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let found = self.names.get(name.as_str().trim_end_matches('.')).cloned();
        Box::pin(async move {
            let found = found.ok_or("no such name")?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[tokio::test]
async fn no_name_of_the_corpus_is_called_and_nothing_arrives() {
    let receiver = Receiver::new(answer("200 OK", "")).await;
    let port = receiver.address.port();
    let names: HashMap<String, Vec<SocketAddr>> = lines(NAMES)
        .map(|line| {
            let mut words = line.split(' ');
            let name = words.next().unwrap().trim_end_matches('.').to_lowercase();
            let addresses = words.map(|address| SocketAddr::new(address.parse().unwrap(), 0));
            (name, addresses.collect())
        })
        .collect();
    let book = Arc::new(Book { names, asked: AtomicUsize::new(0) });
    let ground = Ground { roots: RootCertStore::empty(), resolver: Arc::clone(&book) as _ };
    let caller = Caller::on(ground, Clock::system(), Reach::Public).unwrap();
    for line in lines(NAMES) {
        let name = line.split(' ').next().unwrap();
        let url = vet_url(&format!("http://{name}:{port}/"), Reach::Public);
        let url = url.unwrap_or_else(|why| panic!("nothing is wrong with {name} itself: {why}"));
        // Twice: what was refused once is not remembered as found.
        for _ in 0..2 {
            let asked = book.asked.load(Ordering::Relaxed);
            let refused = post(&caller, &url).await;
            assert!(matches!(refused, Err(CallError::Refused(_))), "{name}: {refused:?}");
            assert!(book.asked.load(Ordering::Relaxed) > asked, "{name} was looked up");
        }
        alert::tests::is_not_delivered(caller.clone(), url).await;
    }
    assert!(receiver.received().is_empty());
}

async fn post(caller: &Caller, url: &reqwest::Url) -> Result<(), CallError> {
    let post = Post {
        url,
        body: b"{}".to_vec(),
        headers: reqwest::header::HeaderMap::new(),
        message_id: "msg_1",
        secret: None,
        within: std::time::Duration::from_secs(20),
    };
    caller.post(post).await.map(drop)
}

/// Found a public address when somebody else asked, and finds this machine from then on.
struct Rebound(AtomicUsize);

impl Resolve for Rebound {
    fn resolve(&self, _: Name) -> Resolving {
        self.0.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        Box::pin(async move { Ok(Box::new(std::iter::once(address)) as Addrs) })
    }
}

/// The connection is made to what was vetted: there is no second look-up between the two.
#[tokio::test]
async fn a_name_that_changes_between_the_check_and_the_connection_gains_nothing() {
    let receiver = Receiver::new(answer("200 OK", "")).await;
    let url = format!("http://rebound.example:{}/", receiver.address.port());
    let url = vet_url(&url, Reach::Public).unwrap();
    let resolver = Arc::new(Rebound(AtomicUsize::new(0)));
    let ground = Ground { roots: RootCertStore::empty(), resolver: Arc::clone(&resolver) as _ };
    let caller = Caller::on(ground, Clock::system(), Reach::Public).unwrap();
    let refused = post(&caller, &url).await;
    assert!(matches!(refused, Err(CallError::Refused(_))), "{refused:?}");
    assert_eq!(resolver.0.load(Ordering::Relaxed), 1, "one look-up for one call");
    assert!(receiver.received().is_empty());
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_nobody_goes_where_it_points() {
    let hidden = Receiver::new(answer("200 OK", "1")).await;
    for status in ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"] {
        let target = hidden.url();
        let says = format!("HTTP/1.1 {status}\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n");
        let receiver = Receiver::new(super::receiver::Answer::Bytes(says.into())).await;
        let handlers = Handlers::new(Clock::system(), Reach::Private).unwrap();
        let step = handlers.step("charge", &endpoint(&receiver.url()));
        let asked = super::step::tests::context(&Clock::system(), lockbay::saga::Action::Execute);
        assert!(step.execute(asked).await.is_err(), "{status} is no success");
        let url = vet_url(&receiver.url(), Reach::Private).unwrap();
        alert::tests::is_not_delivered(handlers.caller().clone(), url).await;
        assert_eq!(receiver.received().len(), 2);
    }
    assert!(hidden.received().is_empty());
}
