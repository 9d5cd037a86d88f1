//! Who may do what over HTTP: every route for every role, sessions, limits, headers, masks.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use lockbay::clock::Clock;
use serde_json::{Value, json};
use support::http::{JSON, Reply, send_bytes};
use support::{Server, eventually, lockbay, run};

const ROLES: [&str; 3] = ["viewer", "operator", "admin"];

/// A row of the table of routes: method, path, and the least role, if one is needed.
type Row = (String, String, Option<usize>);

/// The table as it stands in the source.
fn rows() -> Vec<Row> {
    let source = include_str!("../src/http/access.rs");
    let table = source.split("const ACCESS").nth(1).unwrap().split("];").next().unwrap();
    let rows = table.split("(\"").skip(1).map(|row| {
        let mut parts = row.split('"');
        let (method, path) = (parts.next().unwrap(), parts.nth(1).unwrap());
        let need = parts.next().unwrap();
        let role = ["Viewer", "Operator", "Admin"].iter().position(|role| need.contains(role));
        assert!(role.is_some() || need.contains("Open"), "{row}");
        (method.to_owned(), path.to_owned(), role)
    });
    let rows: Vec<Row> = rows.collect();
    assert!(rows.len() > 90, "the table is looked for in the wrong place");
    rows
}

/// A path with something in the place of each parameter.
fn filled(path: &str) -> String {
    let part = |part: &str| if part.starts_with('{') { "x".into() } else { part.to_owned() };
    path.split('/').map(part).collect::<Vec<String>>().join("/")
}

/// Sends a request and gives the status and head of the answer, which may go on for ever.
fn head(server: &Server, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let (status, head, _) = begin(server, method, path, headers);
    (status, head)
}

fn begin(
    server: &Server,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, String, BufReader<TcpStream>) {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let lines: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let to = server.address();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n{lines}\r\n")
        .unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let read = reader.read_line(&mut head).unwrap();
        assert!(read > 0, "{method} {path}: {head}");
    }
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), reader)
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// Makes a token with this one, or with none.
fn make(server: &Server, with: Option<&str>, role: &str, name: &str) -> (String, String) {
    let body = json!({ "role": role, "name": name }).to_string();
    let shown = with.map(bearer).unwrap_or_default();
    let mut headers = vec![JSON];
    if with.is_some() {
        headers.push(("Authorization", &shown));
    }
    let reply = server.send("POST", "/v1/tokens", &headers, body.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    let made = reply.json();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("token"), text("token_id"))
}

/// A closed server, with a token of each role.
struct Closed {
    server: Server,
    tokens: BTreeMap<&'static str, String>,
    ids: BTreeMap<&'static str, String>,
}

impl Closed {
    fn start(args: &[&str], environment: &[(&str, &str)]) -> Closed {
        let server = Server::start_with(args, environment);
        let (mut tokens, mut ids) = (BTreeMap::new(), BTreeMap::new());
        let (admin, id) = make(&server, None, "admin", "boss");
        for (role, name) in [("operator", "ops"), ("viewer", "eye")] {
            let (token, id) = make(&server, Some(&admin), role, name);
            tokens.insert(role, token);
            ids.insert(role, id);
        }
        tokens.insert("admin", admin);
        ids.insert("admin", id);
        Closed { server, tokens, ids }
    }

    fn send(&self, role: &str, method: &str, path: &str, body: &Value) -> Reply {
        let shown = bearer(&self.tokens[role]);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.server.send(method, path, &[JSON, ("Authorization", &shown)], body.as_bytes())
    }

    fn get(&self, role: &str, path: &str) -> Reply {
        self.send(role, "GET", path, &Value::Null)
    }
}

fn memory() -> Closed {
    Closed::start(&["--store", "memory:"], &[])
}

#[test]
fn every_route_lets_in_whom_its_row_names_and_nobody_else() {
    let open = Server::start(&["--store", "memory:"]);
    let closed = memory();
    let server = &closed.server;
    for (method, path, least) in rows() {
        let what = format!("{method} {path}");
        let path = filled(&path);
        let methods: &[&str] = if method == "GET" { &["GET", "HEAD"] } else { &[&method] };
        for method in methods {
            let (status, _) = head(&open, method, &path, &[]);
            assert!(![401, 403, 405].contains(&status), "open, {what}: {status}");
            let (status, answer) = head(server, method, &path, &[]);
            match least {
                None => assert!(![401, 403].contains(&status), "no token, {what}: {status}"),
                Some(_) => {
                    assert_eq!(status, 401, "no token, {what}");
                    assert!(answer.contains("www-authenticate: bearer\r\n"), "{what}: {answer}");
                }
            }
            for (power, role) in ROLES.iter().enumerate() {
                let shown = bearer(&closed.tokens[role]);
                let (status, _) = head(server, method, &path, &[("Authorization", &shown)]);
                if least.is_some_and(|least| power < least) {
                    assert_eq!(status, 403, "{role}, {what}");
                } else {
                    assert!(![401, 403, 405].contains(&status), "{role}, {what}: {status}");
                }
            }
        }
        // What has no row is for admins, and they learn that there is nothing.
        let (status, _) = head(server, "PATCH", &path, &[]);
        assert_eq!(status, 401, "PATCH {path}");
    }
    let viewer = closed.send("viewer", "PATCH", "/v1/jobs", &Value::Null);
    viewer.problem(403, "forbidden");
    closed.send("admin", "PATCH", "/v1/jobs", &Value::Null).problem(405, "invalid");
    closed.server.get("/nothing/here").problem(404, "not-found");
}

#[test]
fn a_refusal_says_which_role_is_needed_and_who_asked() {
    let closed = memory();
    let refused = closed.send("viewer", "POST", "/v1/leader/resign", &Value::Null);
    let detail = refused.problem(403, "forbidden")["detail"].to_string();
    for part in ["operator", "eye", "viewer", "POST"] {
        assert!(detail.contains(part), "{part} in {detail}");
    }
    let nobody = closed.server.get("/v1/jobs");
    let detail = nobody.problem(401, "unauthorized")["detail"].to_string();
    assert!(detail.contains("lockbay token create"), "{detail}");
    assert_eq!(nobody.header("www-authenticate"), Some("Bearer"));
}

#[test]
fn what_is_shown_must_count_on_an_open_server_too() {
    let server = Server::start(&["--store", "memory:"]);
    let unknown = format!("lbk_{}_{}", "0".repeat(16), "0".repeat(64));
    for shown in ["Bearer x", "Basic dTpw", "Bearer", &bearer(&unknown)] {
        let headers = [("Authorization", shown)];
        server.send("GET", "/v1/jobs", &headers, b"").problem(401, "unauthorized");
        // A probe asks the store for nothing.
        server.send("GET", "/health/live", &headers, b"").ok();
    }
    let twice = [("Authorization", "Bearer x"), ("Authorization", "Bearer x")];
    server.send("GET", "/v1/jobs", &twice, b"").problem(401, "unauthorized");
    // A cookie comes by itself, and an old one locks nobody out of an open server.
    let old = [("Cookie", "lockbay_session=0000")];
    assert_eq!(server.send("GET", "/v1/session", &old, b"").ok()["authentication"], "none");
    server.get("/v1/jobs").ok();
}

#[test]
fn who_asks_is_told_whether_the_server_is_open_or_closed() {
    let open = Server::start(&["--store", "memory:"]);
    let who = open.get("/v1/session").ok();
    let nobody = json!({ "actor": null, "role": "admin", "authentication": "none",
        "expires_at": null, "csrf_token": null });
    assert_eq!(who, nobody);
    let closed = memory();
    closed.server.get("/v1/session").problem(401, "unauthorized");
    let who = closed.get("viewer", "/v1/session").ok();
    assert_eq!((&who["actor"], &who["role"]), (&json!("eye"), &json!("viewer")));
    assert_eq!(who["authentication"], "token");
    closed.server.get("/").ok();
    assert_eq!(closed.server.get("/health/ready").status, 200);
}

#[test]
fn tokens_are_made_listed_and_revoked_and_the_last_admin_stays() {
    let server = Server::start(&["--store", "memory:"]);
    let viewer = json!({ "role": "viewer", "name": "eye" }).to_string();
    let refused = server.post("/v1/tokens", &viewer).problem(422, "invalid");
    assert!(refused["detail"].as_str().unwrap().contains("admin"), "{refused}");
    for body in [
        json!({ "role": "root", "name": "x" }),
        json!({ "role": "admin" }),
        json!({ "role": "admin", "name": "" }),
        json!({ "role": "admin", "name": "x", "expires_in_seconds": 0 }),
        json!({ "role": "admin", "name": "x", "expires_in_seconds": 60, "expires_at": "2099-01-01T00:00:00Z" }),
        json!({ "role": "admin", "name": "x", "expires_at": "2001-01-01T00:00:00Z" }),
        json!({ "role": "admin", "name": "x", "extra": 1 }),
    ] {
        server.post("/v1/tokens", &body.to_string()).problem(400, "invalid");
    }
    let (admin, admin_id) = make(&server, None, "admin", "boss");
    server.get("/v1/tokens").problem(401, "unauthorized");
    let shown = bearer(&admin);
    let with = [JSON, ("Authorization", &*shown)];
    let brief = json!({ "role": "viewer", "name": "eye", "expires_in_seconds": 3600 }).to_string();
    let made = server.send("POST", "/v1/tokens", &with, brief.as_bytes()).json();
    assert!(made["expires_at"].as_str().unwrap() > made["created_at"].as_str().unwrap());
    assert_eq!((&made["status"], &made["created_by"]), (&json!("active"), &json!("boss")));
    let list = || server.send("GET", "/v1/tokens", &with, b"").ok()["items"].clone();
    assert_eq!(list().as_array().unwrap().len(), 2);
    assert!(!list().to_string().contains(&admin[21..]), "no secret is listed");
    let path = format!("/v1/tokens/{}?reason=left", made["token_id"].as_str().unwrap());
    let revoked = server.send("DELETE", &path, &with, b"").ok();
    assert_eq!((&revoked["status"], &revoked["reason"]), (&json!("revoked"), &json!("left")));
    assert_eq!(revoked["revoked_by"], "boss");
    assert_eq!(server.send("DELETE", &path, &with, b"").ok(), revoked);
    let last = server.send("DELETE", &format!("/v1/tokens/{admin_id}"), &with, b"");
    last.problem(422, "invalid");
    server.send("DELETE", "/v1/tokens/0123456789abcdef", &with, b"").problem(404, "not-found");
    eventually("its use is noted", || {
        let tokens = list();
        let boss = tokens.as_array().unwrap().iter().find(|token| token["name"] == "boss")?;
        boss["last_used_at"].is_string().then_some(())
    });
}

fn sqlite(dir: &Path) -> String {
    format!("sqlite:{}", dir.join("s.db").display())
}

#[test]
fn a_token_that_is_revoked_is_refused_by_every_server_and_ends_its_stream() {
    let dir = tempfile::tempdir().unwrap();
    let store = sqlite(dir.path());
    let closed = Closed::start(&["--store", &store], &[]);
    let other = Server::start(&["--store", &store]);
    let shown = bearer(&closed.tokens["operator"]);
    let with = [("Authorization", &*shown)];
    other.send("GET", "/v1/leases", &with, b"").ok();
    let (status, _, mut stream) = begin(&other, "GET", "/v1/events?events=job_failed", &with);
    assert_eq!(status, 200);
    let path = format!("/v1/tokens/{}?reason=left", closed.ids["operator"]);
    closed.send("admin", "DELETE", &path, &Value::Null).ok();
    let clock = Clock::system();
    let began = clock.tick();
    closed.get("operator", "/v1/leases").problem(401, "unauthorized");
    eventually("the other server refuses it", || {
        (other.send("GET", "/v1/leases", &with, b"").status == 401).then_some(())
    });
    assert!(clock.tick().since(began) < Duration::from_secs(5));
    // The next event is not for them any more.
    let admin = bearer(&closed.tokens["admin"]);
    let with = [JSON, ("Authorization", &*admin)];
    let body = json!({ "job_type": "t", "job_key": "k", "parameters": {} }).to_string();
    let job = other.send("POST", "/v1/jobs/claim", &with, body.as_bytes()).ok();
    let path = format!("/v1/jobs/{}/fail", job["job_id"].as_str().unwrap());
    let body = json!({ "claim_token": job["claim_token"], "error": "e", "retryable": false });
    other.send("POST", &path, &with, body.to_string().as_bytes()).ok();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).unwrap();
    assert!(heard.contains("listening") && !heard.contains("job_failed"), "{heard}");
}

/// A browser that is logged in.
struct Browser<'a> {
    server: &'a Server,
    cookie: String,
    csrf: String,
}

impl<'a> Browser<'a> {
    fn login(server: &'a Server, token: &str) -> Self {
        let body = json!({ "token": token }).to_string();
        let reply = server.post("/v1/session", &body);
        let session = reply.ok();
        let line = reply.header("set-cookie").unwrap().to_owned();
        for part in ["Path=/", "HttpOnly", "SameSite=Strict", "Max-Age="] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert!(!line.contains("Secure"), "{line}");
        assert_eq!(session["authentication"], "session");
        let cookie = line.split(';').next().unwrap().to_owned();
        let csrf = session["csrf_token"].as_str().unwrap().to_owned();
        assert!(!cookie.contains(&csrf));
        Browser { server, cookie, csrf }
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        let mut all = vec![("Cookie", &*self.cookie)];
        all.extend(headers);
        self.server.send(method, path, &all, b"")
    }
}

#[test]
fn a_session_is_a_cookie_that_changes_nothing_without_its_csrf_token() {
    let dir = tempfile::tempdir().unwrap();
    let store = sqlite(dir.path());
    let closed = Closed::start(&["--store", &store], &[]);
    let other = Server::start(&["--store", &store]);
    let browser = Browser::login(&closed.server, &closed.tokens["operator"]);
    let who = browser.send("GET", "/v1/session", &[]).ok();
    assert_eq!((&who["actor"], &who["role"]), (&json!("ops"), &json!("operator")));
    assert_eq!(who["csrf_token"], browser.csrf);
    assert!(who["expires_at"].is_string());
    let elsewhere = Browser { server: &other, cookie: browser.cookie.clone(), csrf: String::new() };
    assert_eq!(elsewhere.send("GET", "/v1/session", &[]).ok()["csrf_token"], browser.csrf);
    let (status, ..) = begin(&closed.server, "GET", "/v1/events", &[("Cookie", &browser.cookie)]);
    assert_eq!(status, 200);
    let change = |headers: &[(&str, &str)]| browser.send("DELETE", "/v1/handlers/x", headers);
    change(&[]).problem(403, "forbidden");
    change(&[("X-CSRF-Token", "")]).problem(403, "forbidden");
    change(&[("X-CSRF-Token", &"0".repeat(64))]).problem(403, "forbidden");
    let csrf = ("X-CSRF-Token", &*browser.csrf);
    let own = closed.server.url();
    for foreign in ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1"] {
        change(&[csrf, ("Origin", foreign)]).problem(403, "forbidden");
    }
    change(&[csrf]).problem(404, "not-found");
    change(&[csrf, ("Origin", &own)]).problem(404, "not-found");
    // The role is that of the token.
    browser.send("GET", "/v1/tokens", &[csrf]).problem(403, "forbidden");
    browser.send("DELETE", "/v1/session", &[]).problem(403, "forbidden");
    let out = browser.send("DELETE", "/v1/session", &[csrf]);
    assert_eq!(out.ok()["authentication"], "none");
    assert!(out.header("set-cookie").unwrap().contains("Max-Age=0"));
    let ended = browser.send("GET", "/v1/session", &[]);
    ended.problem(401, "unauthorized");
    assert!(ended.header("set-cookie").unwrap().contains("Max-Age=0"));
    eventually("the other server knows that it has ended", || {
        (elsewhere.send("GET", "/v1/session", &[]).status == 401).then_some(())
    });
    // And it ends with its token.
    let browser = Browser::login(&closed.server, &closed.tokens["operator"]);
    browser.send("GET", "/v1/jobs", &[]).ok();
    let path = format!("/v1/tokens/{}", closed.ids["operator"]);
    closed.send("admin", "DELETE", &path, &Value::Null).ok();
    browser.send("GET", "/v1/jobs", &[]).problem(401, "unauthorized");
    let body = json!({ "token": closed.tokens["operator"] }).to_string();
    closed.server.post("/v1/session", &body).problem(401, "unauthorized");
}

#[test]
fn a_cookie_is_for_encrypted_ways_only_where_the_way_is_encrypted() {
    let closed = memory();
    let body = json!({ "token": closed.tokens["viewer"] }).to_string();
    let headers = [JSON, ("X-Forwarded-Proto", "https")];
    let reply = closed.server.send("POST", "/v1/session", &headers, body.as_bytes());
    assert!(reply.header("set-cookie").unwrap().ends_with("; Secure"));
}

#[test]
fn every_answer_has_strict_headers() {
    let closed = memory();
    let page = closed.get("viewer", "/api/advanced-state/report?format=html");
    assert!(page.header("content-security-policy").unwrap().contains("style-src"));
    for reply in [
        closed.server.get("/health/live"),
        closed.server.get("/v1/jobs"),
        closed.server.get("/nothing"),
        closed.get("viewer", "/v1/jobs"),
        closed.send("viewer", "POST", "/v1/leader/resign", &Value::Null),
        page,
    ] {
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(reply.header(name), Some(value), "{name}");
        }
        assert!(reply.header("content-security-policy").unwrap().contains("default-src 'none'"));
        assert_eq!(reply.header("strict-transport-security"), None, "no TLS here");
    }
}

fn ask_as(server: &Server, path: &str, host: &str) -> Reply {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    send_bytes(server.address(), request.as_bytes()).unwrap()
}

#[test]
fn a_local_server_answers_to_local_names_and_allowed_ones() {
    let hosts = [("LOCKBAY_ALLOWED_HOSTS", "bay.example, other.example:8443")];
    let server = Server::start_with(&["--store", "memory:"], &hosts);
    for host in ["localhost", "127.0.0.1:80", "[::1]:1", "bay.example:99", "other.example:8443"] {
        ask_as(&server, "/v1/jobs", host).ok();
    }
    for host in ["evil.example", "localhost.evil.example:5000", "10.0.0.1", "other.example"] {
        let refused = ask_as(&server, "/v1/jobs", host).problem(421, "invalid");
        assert!(refused["detail"].as_str().unwrap().contains("allowed_hosts"), "{refused}");
        ask_as(&server, "/health/live", host).ok();
    }
    // Without a name there is no page that could have another.
    let old = send_bytes(server.address(), b"GET /v1/jobs HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(old.status, 200);
}

#[test]
fn each_token_makes_so_many_requests_a_second_and_no_more() {
    let closed = Closed::start(&["--store", "memory:"], &[("LOCKBAY_RATE_LIMIT", "3")]);
    let limited = eventually("the limit is reached", || {
        let reply = closed.get("viewer", "/v1/leases");
        (reply.status != 200).then_some(reply)
    });
    let problem = limited.problem(429, "busy");
    assert!(problem["detail"].as_str().unwrap().contains("rate_limit"), "{problem}");
    assert!(limited.header("retry-after").is_some());
    closed.get("operator", "/v1/leases").ok();
    closed.server.get("/health/live").ok();
    eventually("there is room again", || {
        (closed.get("viewer", "/v1/leases").status == 200).then_some(())
    });
}

#[test]
fn an_address_that_shows_too_many_wrong_tokens_is_slowed_down_and_who_is_known_is_not() {
    let closed = memory();
    closed.get("viewer", "/v1/leases").ok();
    let wrong = format!("lbk_{}_{}", "1".repeat(16), "2".repeat(64));
    let shown = bearer(&wrong);
    let mut refused = 0;
    let limited = eventually("it is slowed down", || {
        let reply = closed.server.send("GET", "/v1/jobs", &[("Authorization", &shown)], b"");
        refused += usize::from(reply.status == 401);
        (reply.status != 401).then_some(reply)
    });
    limited.problem(429, "busy");
    assert!(limited.header("retry-after").is_some());
    assert!(refused >= 20, "{refused}");
    let login = json!({ "token": wrong }).to_string();
    for _ in 0..50 {
        closed.server.send("GET", "/v1/jobs", &[("Authorization", &shown)], b"");
        let status = closed.server.post("/v1/session", &login).status;
        assert!([401, 429].contains(&status), "{status}");
        closed.get("viewer", "/v1/leases").ok();
    }
}

#[test]
fn viewers_see_no_query_of_the_address_of_a_handler() {
    let closed = Closed::start(&["--store", "memory:"], &[]);
    let url = "https://pay.example.com/hook?key=4711";
    let put = closed.send("operator", "PUT", "/v1/handlers/pay", &json!({ "url": url }));
    assert_eq!(put.ok()["url"], url);
    let shown = |role| closed.send(role, "GET", "/v1/handlers", &Value::Null).ok();
    assert!(shown("operator").to_string().contains(url));
    let viewed = shown("viewer");
    let handlers = viewed["items"].as_array().unwrap();
    let pay = handlers.iter().find(|handler| handler["name"] == "pay").unwrap();
    assert_eq!(pay["url"], "https://pay.example.com/hook");
    assert!(!viewed.to_string().contains("4711"), "{viewed}");
}

#[test]
fn viewers_do_not_see_masked_fields_and_numbers_stay_as_they_are() {
    let masked = [("LOCKBAY_AUDIT_MASKED_FIELDS", "destination,iban")];
    let closed = Closed::start(&["--store", "memory:"], &masked);
    let raw = |role: &str, method: &str, path: &str, body: &str| {
        let shown = bearer(&closed.tokens[role]);
        closed.server.send(method, path, &[JSON, ("Authorization", &shown)], body.as_bytes())
    };
    // So long that no id holds it by chance.
    let iban = "471147114711";
    let secret = format!(
        r#"{{"iban":"DE-{iban}","amount":12345678901234567890.10,"n":[{{"IBAN":{iban}}}]}}"#
    );
    raw("operator", "PUT", "/v1/state/k", &format!(r#"{{"value":{secret}}}"#)).ok();
    let job = raw(
        "operator",
        "POST",
        "/v1/jobs/claim",
        &format!(r#"{{"job_type":"t","job_key":"k","parameters":{secret}}}"#),
    )
    .ok();
    let id = job["job_id"].as_str().unwrap();
    let done = format!(r#"{{"claim_token":{},"result":{secret}}}"#, job["claim_token"]);
    raw("operator", "POST", &format!("/v1/jobs/{id}/complete"), &done).ok();
    let saga = format!(
        r#"{{"saga_name":"s","defer_handlers":true,"context":{secret},"steps":[
            {{"name":"a","handler":"nobody","parameters":{secret},"timeout_seconds":60}}]}}"#
    );
    let reply = raw("operator", "POST", "/v1/sagas", &saga);
    assert_eq!(reply.status, 202, "{}", reply.text());
    let saga = reply.json()["saga_id"].as_str().unwrap().to_owned();
    let mut hidden = 0;
    for path in [
        "/v1/state/k".to_owned(),
        "/v1/state".into(),
        format!("/v1/jobs/{id}"),
        "/v1/jobs".into(),
        format!("/v1/sagas/{saga}"),
        format!("/v1/sagas/{saga}/history"),
        "/v1/sagas".into(),
        "/v1/audit".into(),
    ] {
        let (whole, shown) = (raw("operator", "GET", &path, ""), raw("viewer", "GET", &path, ""));
        assert_eq!((whole.status, shown.status), (200, 200), "{path}");
        let (whole, text) = (whole.text(), shown.text());
        assert!(!text.contains(iban), "{path}: {text}");
        shown.json();
        if whole.contains("DE-") && whole.contains(iban) {
            hidden += 1;
            assert!(text.contains("•••"), "{path}: {text}");
        }
        if whole.contains("12345678901234567890.10") {
            assert!(text.contains(r#""amount":12345678901234567890.10"#), "{path}: {text}");
        }
    }
    assert!(hidden >= 3, "{hidden}");
}

#[test]
fn what_is_done_with_a_token_is_entered_in_its_name() {
    let closed = memory();
    let shown = bearer(&closed.tokens["operator"]);
    let ask = |actor: Option<&str>, method: &str, path: &str, body: &Value| {
        let mut headers = vec![JSON, ("Authorization", &*shown)];
        headers.extend(actor.map(|actor| ("X-Actor", actor)));
        closed.server.send(method, path, &headers, body.to_string().as_bytes())
    };
    let lease = json!({ "holder": "h", "ttl_seconds": 60 });
    ask(None, "POST", "/v1/leases/plain", &lease).ok();
    ask(Some("ann"), "POST", "/v1/leases/named", &lease).ok();
    let long = "n".repeat(256);
    ask(Some(&long), "POST", "/v1/leases/long", &lease).ok();
    let silence = json!({ "duration_seconds": 60, "actor": "boss", "reason": "r" });
    let silence = ask(None, "POST", "/v1/alerts/silences", &silence);
    assert_eq!(silence.json()["actor"], "ops (for boss)");
    let saga = json!({ "saga_name": "s", "defer_handlers": true, "steps": [
        { "name": "a", "handler": "nobody", "parameters": {}, "timeout_seconds": 60 }] });
    let saga = ask(None, "POST", "/v1/sagas", &saga).json()["saga_id"].as_str().unwrap().to_owned();
    let cancel = json!({ "reason": "r", "actor": "boss" });
    ask(Some("ann"), "POST", &format!("/v1/sagas/{saga}/cancel"), &cancel).ok();
    let actor = |entity: &str, action: &str| {
        let path = format!("/v1/audit?entity={entity}&action={action}");
        closed.get("viewer", &path).ok()["items"][0]["actor"].as_str().unwrap().to_owned()
    };
    assert_eq!(actor("lease/plain", "granted"), "ops");
    assert_eq!(actor("lease/named", "granted"), "ops (for ann)");
    let long = actor("lease/long", "granted");
    assert!(long.starts_with("ops (for nnn") && long.len() <= 256, "{long}");
    assert_eq!(actor(&format!("saga/{saga}"), "cancelled"), "ops (for boss)");
}

#[test]
fn a_server_that_others_reach_starts_only_where_tokens_are_needed() {
    let dir = tempfile::tempdir().unwrap();
    let store = sqlite(dir.path());
    let serve = |more: &[&str]| {
        let mut command = lockbay();
        command.args(["serve", "--listen", "0.0.0.0:0", "--store", &store]).args(more);
        command.output().unwrap()
    };
    let refused = serve(&[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("lockbay token create --role admin"), "{said}");
    // Closed by its settings alone.
    let required = [("LOCKBAY_AUTH", "required")];
    let server = Server::start_with(&["--listen", "0.0.0.0:0", "--store", &store], &required);
    server.get("/v1/jobs").problem(401, "unauthorized");
    let body = json!({ "role": "admin", "name": "boss" }).to_string();
    server.post("/v1/tokens", &body).problem(401, "unauthorized");
    let made = lockbay()
        .args(["token", "create", "--role", "admin", "--name", "boss", "--store", &store])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let token = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let shown = bearer(&token);
    server.send("GET", "/v1/jobs", &[("Authorization", &shown)], b"").ok();
    drop(server);
    let server = Server::start(&["--listen", "0.0.0.0:0", "--store", &store]);
    server.get("/v1/jobs").problem(401, "unauthorized");
    server.send("GET", "/v1/jobs", &[("Authorization", &shown)], b"").ok();
}

#[test]
fn the_command_line_makes_lists_and_revokes_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let store = sqlite(dir.path());
    let server = Server::start(&["--store", &store]);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let viewer = ["token", "create", "--role", "viewer", "--name", "eye", "--expires", "90d"];
    let refused = run(&server, &viewer);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("admin"), "{refused:?}");
    let made = run(&server, &["token", "create", "--role", "admin", "--name", "boss"]);
    let admin = text(&made.stdout);
    assert!(admin.starts_with("lbk_") && admin.len() == 85 && !admin.contains('\n'), "{made:?}");
    assert!(!text(&made.stderr).contains(&admin[21..]), "{made:?}");
    let nobody = run(&server, &["token", "list"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(text(&nobody.stderr).contains("LOCKBAY_TOKEN"), "{nobody:?}");
    let as_admin = |args: &[&str]| run(&server, &[&["--token", &admin][..], args].concat());
    let made = as_admin(&[&viewer[..], &["--json"]].concat());
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let eye = made["token"].as_str().unwrap();
    let id = made["token_id"].as_str().unwrap();
    let seen = run(&server, &["--token", eye, "job", "list"]);
    assert!(seen.status.success(), "{seen:?}");
    let refused = run(&server, &["--token", eye, "leader", "resign", "--yes"]);
    assert!(text(&refused.stderr).contains("operator"), "{refused:?}");
    let listed = text(&as_admin(&["token", "list"]).stdout);
    assert!(listed.contains(id) && listed.contains("boss") && !listed.contains("lbk_"), "{listed}");
    let in_store = lockbay().args(["token", "list", "--json", "--store", &store]).output().unwrap();
    let in_store: Value = serde_json::from_slice(&in_store.stdout).unwrap();
    assert_eq!(in_store["items"].as_array().unwrap().len(), 2);
    assert!(as_admin(&["token", "revoke", id, "--reason", "left"]).status.success());
    assert_eq!(run(&server, &["--token", eye, "job", "list"]).status.code(), Some(1));
    let last = &admin[4..20];
    let refused = as_admin(&["token", "revoke", last, "--reason", "r"]);
    assert_eq!(refused.status.code(), Some(1));
    let revoke = ["token", "revoke", last, "--reason", "r", "--store", &store];
    assert!(lockbay().args(revoke).output().unwrap().status.success());
    eventually("the last admin is refused", || {
        (as_admin(&["job", "list"]).status.code() == Some(1)).then_some(())
    });
    let nowhere = lockbay()
        .args(["token", "create", "--role", "admin", "--name", "x", "--store", "memory:"])
        .output()
        .unwrap();
    assert_eq!(nowhere.status.code(), Some(2), "{nowhere:?}");
    let overheard = lockbay()
        .args(["--url", "http://bay.example:5000", "--token", &admin, "job", "list"])
        .output()
        .unwrap();
    assert_eq!(overheard.status.code(), Some(2));
    let said = text(&overheard.stderr);
    assert!(said.contains("--allow-plain-http") && !said.contains(&admin[21..]), "{said}");
}

/// Begins a request whose body is held back, and waits until the server wants it.
fn hold_back(server: &Server, path: &str, length: usize) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\
         Expect: 100-continue\r\n\r\n"
    )
    .unwrap();
    let mut told = [0; 25];
    stream.read_exact(&mut told).unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

/// What is answered at last.
fn answer(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn whoever_was_let_in_while_the_server_was_open_makes_no_token_once_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let store = sqlite(dir.path());
    let (server, other) =
        (Server::start(&["--store", &store]), Server::start(&["--store", &store]));
    let body = json!({ "role": "admin", "name": "late" }).to_string();
    let mut late = [&server, &other].map(|server| hold_back(server, "/v1/tokens", body.len()));
    let (admin, _) = make(&server, None, "admin", "boss");
    for stream in &mut late {
        stream.write_all(body.as_bytes()).unwrap();
    }
    for answered in late.map(answer) {
        assert!(answered.starts_with("HTTP/1.1 401") && !answered.contains("lbk_"), "{answered}");
    }
    let shown = bearer(&admin);
    let tokens = server.send("GET", "/v1/tokens", &[("Authorization", &shown)], b"").ok();
    assert_eq!(tokens["items"].as_array().unwrap().len(), 1, "{tokens}");
}

#[test]
fn those_who_log_in_slowly_take_nobodys_place() {
    let closed = Closed::start(&["--store", "memory:"], &[("LOCKBAY_MAX_IN_FLIGHT", "4")]);
    let slow: Vec<TcpStream> =
        (0..5).map(|_| hold_back(&closed.server, "/v1/session", 100)).collect();
    closed.get("viewer", "/v1/leases").ok();
    Browser::login(&closed.server, &closed.tokens["viewer"]);
    // They have seconds, and a body of theirs is short.
    for answered in slow.into_iter().map(answer) {
        assert!(answered.starts_with("HTTP/1.1 408"), "{answered}");
    }
    let long = json!({ "token": "x".repeat(1_024) }).to_string();
    closed.server.post("/v1/session", &long).problem(413, "invalid");
}

#[test]
fn a_session_is_entered_in_the_name_of_its_token_whatever_name_is_given() {
    let closed = memory();
    let body = json!({ "token": closed.tokens["viewer"] }).to_string();
    let login = |cookie: &str| {
        let headers = [JSON, ("X-Actor", "boss"), ("Cookie", cookie)];
        let reply = closed.server.send("POST", "/v1/session", &headers, body.as_bytes());
        reply.ok();
        reply.header("set-cookie").unwrap().split(';').next().unwrap().to_owned()
    };
    login(&login("a=b"));
    let entries = closed.get("admin", "/v1/audit?page_size=1000").ok();
    let actors = |action: &str| -> Vec<String> {
        let of_sessions = |entry: &&Value| {
            entry["entity"].as_str().unwrap().starts_with("access-session/")
                && entry["action"] == action
        };
        let items = entries["items"].as_array().unwrap().iter().filter(of_sessions);
        items.map(|entry| entry["actor"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(actors("begun"), ["eye (for boss)", "eye (for boss)"], "{entries}");
    assert_eq!(actors("ended"), ["eye (for boss)"], "{entries}");
}

#[test]
fn to_begin_sessions_is_limited_with_the_requests_of_the_token() {
    let closed = Closed::start(&["--store", "memory:"], &[("LOCKBAY_RATE_LIMIT", "3")]);
    let body = json!({ "token": closed.tokens["viewer"] }).to_string();
    let limited = eventually("the limit is reached", || {
        let reply = closed.server.post("/v1/session", &body);
        (reply.status != 200).then_some(reply)
    });
    let problem = limited.problem(429, "busy");
    assert!(problem["detail"].as_str().unwrap().contains("rate_limit"), "{problem}");
    closed.get("operator", "/v1/leases").ok();
}

#[test]
fn a_command_goes_nowhere_that_a_server_sends_it_to() {
    let there = Server::start(&["--store", "memory:"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = format!("http://{}", listener.local_addr().unwrap());
    let elsewhere = there.url();
    let sends_away = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(&stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
        }
        let answer = format!(
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: {elsewhere}/v1/jobs\r\n\
             Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        (&stream).write_all(answer.as_bytes()).unwrap();
    });
    let sent =
        lockbay().args(["--url", &here, "--token", "lbk_x", "job", "list"]).output().unwrap();
    sends_away.join().unwrap();
    let said = String::from_utf8_lossy(&sent.stderr);
    assert!(sent.status.code() == Some(2) && said.contains("307"), "{sent:?}");
}

#[test]
fn a_command_reads_its_token_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let closed = memory();
    let file = dir.path().join("token");
    let command = |environment: &[(&str, &str)], args: &[&str]| {
        let mut command = lockbay();
        command.env("LOCKBAY_URL", closed.server.url()).envs(environment.iter().copied());
        command.args(args).args(["job", "list"]).output().unwrap()
    };
    std::fs::write(&file, format!("{}\n", closed.tokens["viewer"])).unwrap();
    let path = file.to_str().unwrap();
    let from_file = [("LOCKBAY_TOKEN_FILE", path)];
    for listed in [command(&from_file, &[]), command(&[], &["--token-file", path])] {
        assert!(listed.status.success(), "{listed:?}");
    }
    // One that is given is taken.
    assert_eq!(command(&from_file, &["--token", "lbk_x"]).status.code(), Some(1));
    std::fs::write(&file, "\n").unwrap();
    for path in [path, "/nowhere/token"] {
        let refused = command(&[("LOCKBAY_TOKEN_FILE", path)], &[]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(2) && said.contains(path), "{said}");
    }
}

/// Whatever an Authorization header or a cookie holds, it lets nobody in and breaks nothing.
#[test]
fn noise_in_place_of_a_token_or_a_cookie_lets_nobody_in() {
    let closed = memory();
    let seed = 20_261_130;
    println!("seed {seed}");
    let dice = Clock::manual(seed);
    let below = |limit: u64| usize::try_from(dice.random() % limit).unwrap();
    let token = closed.tokens["admin"].clone();
    for _ in 0..400 {
        let mut noise = match below(4) {
            0 => format!("Bearer {token}").into_bytes(),
            1 => b"Bearer lbk_".to_vec(),
            2 => format!("lockbay_session={token}; lockbay_session=").into_bytes(),
            _ => Vec::new(),
        };
        let real = noise.clone();
        for _ in 0..=below(12) {
            let byte = u8::try_from(below(256)).unwrap();
            let at = below(noise.len() as u64 + 1);
            match below(3) {
                0 if !noise.is_empty() => drop(noise.remove(at.min(noise.len() - 1))),
                1 if !noise.is_empty() => {
                    let at = at.min(noise.len() - 1);
                    noise[at] = byte;
                }
                _ => noise.insert(at, byte),
            }
        }
        noise.retain(|byte| !b"\r\n\0".contains(byte));
        let trimmed = noise.trim_ascii();
        let is_token = trimmed.len() > 7
            && trimmed[..6].eq_ignore_ascii_case(b"bearer")
            && trimmed[6..].trim_ascii_start() == token.as_bytes();
        if noise == real || is_token {
            continue;
        }
        let name = if below(2) == 0 { "Authorization" } else { "Cookie" };
        let mut request =
            format!("GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{name}: ")
                .into_bytes();
        request.extend(&noise);
        request.extend(b"\r\n\r\n");
        let reply = send_bytes(closed.server.address(), &request).unwrap();
        assert!([400, 401, 429].contains(&reply.status), "{}: {noise:?}", reply.status);
    }
    closed.get("admin", "/v1/jobs").ok();
}

/// The page of the roles says what the code does.
#[test]
fn the_security_page_names_every_route_with_its_role() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/security.md");
    let page = std::fs::read_to_string(page).unwrap();
    let table = page.split("\n## Roles\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let told: BTreeSet<String> =
        table.lines().filter(|line| line.starts_with("| `")).map(str::to_owned).collect();
    let wanted = rows().into_iter().map(|(method, path, least)| {
        let least = least.map_or("nobody in particular", |least| ROLES[least]);
        format!("| `{method} {path}` | {least} |")
    });
    let wanted: BTreeSet<String> = wanted.collect();
    let missing: Vec<_> = wanted.difference(&told).collect();
    let stale: Vec<_> = told.difference(&wanted).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "docs/security.md under Roles: missing {missing:#?}, not in ACCESS {stale:#?}"
    );
}
