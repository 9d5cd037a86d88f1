//! Whoever may register an endpoint reaches nothing through a real server that it must not reach, and
//! no proxy of the environment is told of anything.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use support::sink::{Answer, Call, Sink};
use support::{Server, eventually};

const URLS: &str = include_str!("data/ssrf_urls.txt");

#[test]
fn no_url_of_the_corpus_is_registered_and_nothing_of_it_is_kept() {
    let server = Server::start(&["--store", "memory:"]);
    let (mut taken, mut tried) = (Vec::new(), 0);
    for url in URLS.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        tried += 1;
        let reply = server.put("/v1/handlers/charge", &json!({ "url": url }).to_string());
        if reply.status < 400 || reply.status >= 500 {
            taken.push(format!("{} {url}", reply.status));
        }
    }
    assert!(tried >= 300 && taken.is_empty(), "of {tried}:\n{}", taken.join("\n"));
    let kept = server.get("/v1/handlers").ok();
    let items = kept["items"].as_array().unwrap();
    assert!(items.iter().all(|item| item["kind"] == "local"), "{kept}");
}

#[test]
fn a_webhook_at_an_address_of_this_network_stops_the_start() {
    for url in ["http://169.254.169.254/", "http://0x7f.1/", "http://[::ffff:10.0.0.1]/"] {
        let mut command = support::lockbay();
        command.args(["serve", "--store", "memory:", "--listen", "127.0.0.1:0"]);
        let output = command.env("LOCKBAY_ALERT_WEBHOOK_URL", url).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains("alert_webhook_url"), "{said}");
    }
}

/// Every name under which a proxy may stand in the environment.
const PROXIES: [&str; 8] = [
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
];

#[test]
fn a_proxy_of_the_environment_is_asked_for_nothing() {
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy_url = format!("http://{}", proxy.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    std::thread::spawn(move || {
        for _ in proxy.incoming() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    let came = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&came);
    let sink = Sink::start(move |_: Call| {
        *seen.lock().unwrap() += 1;
        async { Answer::Says(200, json!(1)) }
    });
    let url = sink.url();
    let mut environment = vec![
        ("LOCKBAY_HANDLERS_ALLOW_PRIVATE", "true"),
        ("LOCKBAY_ALERT_WEBHOOK_URL", url.as_str()),
    ];
    // The last two say for whom no proxy is asked: for nobody.
    environment.extend(PROXIES[..6].iter().map(|name| (*name, proxy_url.as_str())));
    environment.extend(PROXIES[6..].iter().map(|name| (*name, "")));
    let server = Server::start_with(&["--store", "memory:"], &environment);
    server.wait_until_leading();
    server.post("/v1/alerts/notifications/test", "{}").ok();
    eventually("the webhook is told", || (*came.lock().unwrap() > 0).then_some(()));

    server.put("/v1/handlers/charge", &json!({ "url": url }).to_string()).ok();
    let saga = json!({ "saga_name": "s", "steps": [{ "name": "c", "handler": "charge", "parameters": {} }] });
    let before = *came.lock().unwrap();
    let reply = server.post("/v1/sagas", &saga.to_string());
    assert!(reply.status < 300, "{}", reply.text());
    eventually("the step is called", || (*came.lock().unwrap() > before).then_some(()));

    // The command line asks none for its server either.
    let mut command = support::lockbay();
    command.args(["leader", "status"]).env("LOCKBAY_URL", server.url());
    command.envs(PROXIES[..6].iter().map(|name| (*name, proxy_url.as_str())));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(asked.load(Ordering::Relaxed), 0, "connections to the proxy");
}
