//! One POST of JSON to somebody else: signed, limited in time and size, to vetted addresses alone.
//!
//! It follows no redirect, asks no proxy, and repeats nothing that may have been received. It says
//! exactly one thing about a call without a reply: whether the request may have been received. What
//! a reply means is for the caller to know. The pool of open connections is its only state.

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::Context;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use lockbay::clock::Clock;
use reqwest::dns::Resolve;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use rustls::client::WantsClientCert;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};

use super::sign::{self, Secret};
use super::vet::{Reach, Refused, SystemResolver, VettingResolver};

/// The longest body of a reply that is read, in bytes.
pub(crate) const MAX_REPLY_BYTES: usize = 1024 * 1024;
/// How long a connection may take, TLS included.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How long a connection is kept for the next call. Common servers close theirs after five seconds,
/// and a request that meets the closing has an unknown outcome.
const IDLE_WITHIN: Duration = Duration::from_secs(4);
/// How many connections to one host are kept.
const IDLE_PER_HOST: usize = 32;
/// How much of an error's text is told, in bytes.
const MAX_ERROR_BYTES: usize = 1_024;

/// Makes calls. Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub(crate) struct Caller {
    http: Client,
    clock: Clock,
    reach: Reach,
}

/// What a caller stands on; tests put in their own.
pub(crate) struct Ground {
    /// Who is trusted for https.
    pub(crate) roots: RootCertStore,
    /// Who resolves names; what it finds is vetted.
    pub(crate) resolver: Arc<dyn Resolve>,
}

impl Ground {
    /// The certificate authorities of browsers, and the resolver of this machine.
    pub(crate) fn usual() -> Self {
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        Ground { roots, resolver: Arc::new(SystemResolver) }
    }
}

/// One call.
pub(crate) struct Post<'a> {
    /// Where to; vetted by [`vet_url`](super::vet_url).
    pub(crate) url: &'a Url,
    /// JSON.
    pub(crate) body: Vec<u8>,
    /// Beyond those that every call has.
    pub(crate) headers: HeaderMap,
    /// Names the delivery: see [`message_id`](super::message_id).
    pub(crate) message_id: &'a str,
    /// Signs it.
    pub(crate) secret: Option<&'a Secret>,
    /// How long it may take in all.
    pub(crate) within: Duration,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Its status.
    pub(crate) status: StatusCode,
    /// Its body, as far as it was read.
    pub(crate) body: Vec<u8>,
    /// Why that is not the whole body.
    pub(crate) cut: Option<String>,
    /// When it may be called again, if it says so in seconds.
    pub(crate) retry_after: Option<Duration>,
}

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallError {
    /// It may not be called. Nothing was sent, and nothing ever will be.
    Refused(String),
    /// Nothing of the body was sent, most often as there was no connection to send it on.
    NotSent(String),
    /// It may have been received.
    Unknown(String),
}

impl Caller {
    /// A caller on the usual ground.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub(crate) fn new(clock: Clock, reach: Reach) -> anyhow::Result<Self> {
        Self::on(Ground::usual(), clock, reach)
    }

    /// A caller on the given ground.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub(crate) fn on(ground: Ground, clock: Clock, reach: Reach) -> anyhow::Result<Self> {
        let http = Client::builder()
            .tls_backend_preconfigured(tls(ground.roots)?)
            .dns_resolver(VettingResolver::new(ground.resolver, reach))
            .no_proxy() // a proxy would resolve names itself, unvetted
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .http1_only()
            .connect_timeout(CONNECT_WITHIN)
            .pool_idle_timeout(IDLE_WITHIN)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .user_agent(concat!("lockbay/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("cannot set up outbound calls")?;
        Ok(Caller { http, clock, reach })
    }

    /// Which addresses it calls.
    pub(crate) fn reach(&self) -> Reach {
        self.reach
    }

    /// The clock that it measures with.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Makes one call, once. Dropped, it is given up: what was sent is then unknown.
    ///
    /// # Errors
    /// Whether it may have been sent, and what happened.
    pub(crate) async fn post(&self, post: Post<'_>) -> Result<Reply, CallError> {
        let within = post.within;
        let late = || format!("no answer within {within:?}");
        if within.is_zero() {
            return Err(CallError::NotSent("no time is left for a call".into()));
        }
        let until = self.clock.tick() + within;
        let fate = Arc::new(OnceLock::new());
        if post.body.is_empty() {
            fate.get_or_init(|| Fate::Taken); // nobody would come for it
        }
        let sending = self.send(post, Arc::clone(&fate));
        let sent = self.clock.timeout(within, sending).await;
        // Nobody acts on a request of which no byte of the body has come.
        let lost = |why| match fate.get_or_init(|| Fate::Withdrawn) {
            Fate::Taken => CallError::Unknown(why),
            Fate::Withdrawn => CallError::NotSent(why),
        };
        let mut response = match sent {
            None => return Err(lost(late())),
            Some(Err(error)) => {
                return Err(refusal(&error).unwrap_or_else(|| lost(told(error))));
            }
            Some(Ok(response)) => response,
        };
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let retry_after = retry_after.map(Duration::from_secs);
        let mut body = Vec::new();
        let left = until.since(self.clock.tick());
        let cut = match self.clock.timeout(left, read(&mut response, &mut body)).await {
            None => Some(late()),
            Some(ended) => ended.err(),
        };
        Ok(Reply { status, body, cut, retry_after })
    }

    async fn send(&self, post: Post<'_>, fate: Arc<OnceLock<Fate>>) -> reqwest::Result<Response> {
        let Post { url, body, mut headers, message_id, secret, within: _ } = post;
        let seconds = sign::seconds(self.clock.now());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(HeaderName::from_static(sign::ID_HEADER), header_value(message_id));
        headers.insert(HeaderName::from_static(sign::TIMESTAMP_HEADER), seconds.into());
        if let Some(secret) = secret {
            let signature = header_value(&secret.sign(message_id, seconds, &body));
            headers.insert(HeaderName::from_static(sign::SIGNATURE_HEADER), signature);
        }
        let body = reqwest::Body::wrap(Watched { body: body.into(), fate });
        self.http.post(url.clone()).headers(headers).body(body).send().await
    }
}

/// What became of the body of a request; decided once, by whoever comes first.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// A connection took it: it may have been received.
    Taken,
    /// The call was given up before: no connection gets it any more.
    Withdrawn,
}

/// The body of a request, which a connection comes for when it writes.
struct Watched {
    body: Bytes,
    fate: Arc<OnceLock<Fate>>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.fate.get_or_init(|| Fate::Taken) {
            Fate::Taken => {
                let body = std::mem::take(&mut self.body);
                Poll::Ready((!body.is_empty()).then(|| Ok(Frame::data(body))))
            }
            Fate::Withdrawn => Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let length = u64::try_from(self.body.len()).expect("memory has fewer than 2^64 bytes");
        SizeHint::with_exact(length)
    }
}

/// TLS by rustls and ring alone, whatever else the process has chosen.
///
/// # Errors
/// If ring cannot speak the versions that rustls takes for safe.
pub(crate) fn tls(roots: RootCertStore) -> anyhow::Result<ClientConfig> {
    Ok(tls_trusting(roots)?.with_no_client_auth())
}

/// The same for who may show a certificate.
///
/// # Errors
/// As [`tls`].
pub(crate) fn tls_trusting(
    roots: RootCertStore,
) -> anyhow::Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("cannot set up TLS")?;
    Ok(builder.with_root_certificates(roots))
}

/// A text as the value of a header: as it stands if it is visible ASCII, otherwise with every other
/// byte, and every percent sign, percent-encoded. So it can neither end the header nor begin one.
pub(crate) fn header_value(text: &str) -> HeaderValue {
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    let encoded: String = text
        .bytes()
        .map(|byte| {
            let stands = visible || (byte.is_ascii_graphic() && byte != b'%');
            if stands { char::from(byte).to_string() } else { format!("%{byte:02X}") }
        })
        .collect();
    HeaderValue::from_str(&encoded).expect("visible ASCII is a header's value")
}

/// Reads the body of a reply, up to the limit.
async fn read(response: &mut Response, body: &mut Vec<u8>) -> Result<(), String> {
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(()),
            Ok(Some(chunk)) => {
                let room = MAX_REPLY_BYTES - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if chunk.len() > room {
                    return Err(format!("the reply has more than {MAX_REPLY_BYTES} bytes"));
                }
            }
            Err(error) => return Err(told(error)),
        }
    }
}

/// The refusal of an address, if that is what an error comes from.
fn refusal(error: &reqwest::Error) -> Option<CallError> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(at) = cause {
        if let Some(Refused(reason)) = at.downcast_ref() {
            return Some(CallError::Refused(reason.clone()));
        }
        cause = at.source();
    }
    None
}

/// An error with all that caused it, without the URL, which may hold a secret.
fn told(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(at) = cause {
        let more = at.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = at.source();
    }
    text.truncate(text.floor_char_boundary(MAX_ERROR_BYTES));
    text
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use reqwest::dns::{Addrs, Name, Resolving};
    use rustls::ServerConfig;
    use tokio_rustls::TlsAcceptor;

    use super::super::receiver::{Answer, Receiver, answer};
    use super::super::vet::vet_url;
    use super::*;

    const WITHIN: Duration = Duration::from_secs(20);

    /// Answers every name with one of these, in turn.
    struct Turns(Vec<&'static str>, AtomicUsize);

    impl Resolve for Turns {
        fn resolve(&self, _: Name) -> Resolving {
            let turn = self.1.fetch_add(1, Ordering::Relaxed) % self.0.len();
            let found = self.0[turn].parse::<IpAddr>();
            Box::pin(async move {
                let found = found.map(|address| SocketAddr::new(address, 0))?;
                Ok(Box::new(std::iter::once(found)) as Addrs)
            })
        }
    }

    fn caller(resolves_to: &[&'static str], roots: RootCertStore, reach: Reach) -> Caller {
        let resolver = Arc::new(Turns(resolves_to.to_vec(), AtomicUsize::new(0)));
        Caller::on(Ground { roots, resolver }, Clock::system(), reach).unwrap()
    }

    async fn post(caller: &Caller, url: &str) -> Result<Reply, CallError> {
        let post = Post {
            url: &url.parse().unwrap(),
            body: b"{}".to_vec(),
            headers: HeaderMap::new(),
            message_id: "msg_1",
            secret: None,
            within: WITHIN,
        };
        caller.post(post).await
    }

    fn server_tls() -> (TlsAcceptor, RootCertStore) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec!["hooks.example".into()]).unwrap();
        let key = signing_key.serialize_der().try_into().unwrap();
        let config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![cert.der().clone()], key)
                .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        (TlsAcceptor::from(Arc::new(config)), roots)
    }

    #[tokio::test]
    async fn https_reaches_only_a_server_whose_certificate_is_trusted_for_its_name() {
        let (tls, roots) = server_tls();
        let host = Ipv4Addr::LOCALHOST.into();
        let receiver = Receiver::start(host, answer("200 OK", "7"), Some(tls)).await;
        let port = receiver.address.port();
        let trusting = caller(&["127.0.0.1"], roots, Reach::Private);
        let reply = post(&trusting, &format!("https://hooks.example:{port}/")).await.unwrap();
        assert_eq!((reply.status, &reply.body[..]), (StatusCode::OK, &b"7"[..]));

        let other_name = post(&trusting, &format!("https://other.example:{port}/")).await;
        assert!(matches!(&other_name, Err(CallError::NotSent(_))), "{other_name:?}");
        let usual = caller(&["127.0.0.1"], Ground::usual().roots, Reach::Private);
        let untrusted = post(&usual, &format!("https://hooks.example:{port}/")).await;
        assert!(matches!(&untrusted, Err(CallError::NotSent(_))), "{untrusted:?}");
        assert_eq!(receiver.received().len(), 1);
    }

    #[tokio::test]
    async fn a_name_that_resolves_differently_a_moment_later_is_refused_then() {
        let receiver = Receiver::new(answer("200 OK", "")).await;
        let port = receiver.address.port();
        let caller = caller(&["127.0.0.1"], RootCertStore::empty(), Reach::Public);
        let url = format!("http://rebound.example:{port}/");
        assert!(vet_url(&url, Reach::Public).is_ok(), "nothing is wrong with the name itself");
        let refused = post(&caller, &url).await;
        assert!(matches!(&refused, Err(CallError::Refused(_))), "{refused:?}");
        assert!(receiver.received().is_empty());
    }

    #[tokio::test]
    async fn a_vetted_connection_is_used_again() {
        let receiver = Receiver::new(answer("200 OK", "1")).await;
        let caller = caller(&["127.0.0.1"], RootCertStore::empty(), Reach::Private);
        let url = format!("http://hooks.example:{}/", receiver.address.port());
        post(&caller, &url).await.unwrap();
        post(&caller, &url).await.unwrap();
        let connections: Vec<_> = receiver.received().iter().map(|it| it.connection).collect();
        assert_eq!(connections, [0, 0]);
    }

    #[tokio::test]
    async fn a_name_without_an_address_and_a_port_without_a_server_were_sent_nothing() {
        let caller = caller(&["nowhere"], RootCertStore::empty(), Reach::Private);
        let unresolved = post(&caller, "http://hooks.example/?key=hush").await;
        let Err(CallError::NotSent(why)) = unresolved else { panic!("{unresolved:?}") };
        assert!(!why.contains("hush"), "{why}");

        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let refused = post(&caller, &format!("http://{closed}/")).await;
        assert!(matches!(&refused, Err(CallError::NotSent(_))), "{refused:?}");
    }

    /// Never finds anything, and never says so.
    struct Silent(Arc<AtomicUsize>);

    impl Resolve for Silent {
        fn resolve(&self, _: Name) -> Resolving {
            self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test]
    async fn what_was_still_without_a_connection_at_its_time_limit_was_not_sent() {
        let clock = Clock::manual(1);
        let asked = Arc::new(AtomicUsize::new(0));
        let resolver = Arc::new(Silent(Arc::clone(&asked)));
        let ground = Ground { roots: RootCertStore::empty(), resolver };
        let caller = Caller::on(ground, clock.clone(), Reach::Public).unwrap();
        let call = tokio::spawn(async move { post(&caller, "http://hooks.example/").await });
        while asked.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        clock.advance(WITHIN);
        let late = call.await.unwrap();
        assert!(matches!(&late, Err(CallError::NotSent(_))), "{late:?}");
    }

    #[tokio::test]
    async fn a_body_that_was_withdrawn_is_given_to_no_connection() {
        use futures_util::future::poll_fn;
        for (fate, gets) in [(Fate::Taken, true), (Fate::Withdrawn, false)] {
            let fate = Arc::new(OnceLock::from(fate));
            let mut body = Watched { body: Bytes::from_static(b"{}"), fate };
            let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
            assert_eq!(frame.unwrap().is_ok(), gets);
        }
    }

    #[tokio::test]
    async fn ipv6_loopback_is_called_by_permission_alone() {
        let host = Ipv6Addr::LOCALHOST.into();
        let receiver = Receiver::start(host, answer("200 OK", ""), None).await;
        assert!(vet_url(&receiver.url(), Reach::Public).is_err());
        vet_url(&receiver.url(), Reach::Private).unwrap();
        let caller = caller(&["::1"], RootCertStore::empty(), Reach::Private);
        post(&caller, &receiver.url()).await.unwrap();
    }

    #[tokio::test]
    async fn a_reply_beyond_the_limit_is_cut_and_says_so() {
        for (length, whole) in [(MAX_REPLY_BYTES, true), (MAX_REPLY_BYTES + 1, false)] {
            let receiver = Receiver::new(answer("200 OK", &"1".repeat(length))).await;
            let caller = caller(&[], RootCertStore::empty(), Reach::Private);
            let reply = post(&caller, &receiver.url()).await.unwrap();
            assert_eq!((reply.body.len(), reply.cut.is_none()), (MAX_REPLY_BYTES, whole));
        }
    }

    #[tokio::test]
    async fn a_call_for_which_no_time_is_left_is_not_sent() {
        let receiver = Receiver::new(Answer::Stall(Vec::new())).await;
        let caller = caller(&[], RootCertStore::empty(), Reach::Private);
        let post = Post {
            url: &receiver.url().parse().unwrap(),
            body: Vec::new(),
            headers: HeaderMap::new(),
            message_id: "msg_1",
            secret: None,
            within: Duration::ZERO,
        };
        assert!(matches!(caller.post(post).await, Err(CallError::NotSent(_))));
    }

    #[test]
    fn a_header_holds_any_text_without_becoming_two() {
        for (text, value) in [
            ("saga/0/charge", "saga/0/charge"),
            ("50%", "50%"),
            ("a b%", "a%20b%25"),
            ("a\r\nx-evil: 1", "a%0D%0Ax-evil:%201"),
            ("\u{e4}\u{0}", "%C3%A4%00"),
        ] {
            assert_eq!(header_value(text), value);
        }
    }
}
