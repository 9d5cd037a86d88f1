//! TLS of a real server: who is trusted, who is let in, and certificates that change under it.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use lockbay::clock::Clock;
use serde_json::{Value, json};
use support::http::{JSON, send, send_bytes};
use support::tls::{Authority, Files, Given, TlsClient};
use support::{PATIENCE, Server, eventually, eventually_within, lockbay};

const LIVE: &str = "/health/live";

struct Setup {
    authority: Authority,
    files: Files,
    server: Server,
}

/// A server with a certificate of an authority of its own, and further settings. Where these say
/// `{authority}`, the file of the authority stands.
fn serve_with(settings: &[(&str, &str)]) -> Setup {
    let (authority, files) = (Authority::new(), Files::new());
    let Given { cert, key } = authority.server("first");
    let (cert, key) = (files.write("cert.pem", &cert), files.write("key.pem", &key));
    let path = files.write("authority.pem", authority.pem());
    let mut environment =
        vec![("LOCKBAY_TLS_CERT", cert.as_str()), ("LOCKBAY_TLS_KEY", key.as_str())];
    environment.extend(
        settings
            .iter()
            .map(|(name, value)| (*name, if *value == "{authority}" { &path } else { *value })),
    );
    let server = Server::start_with(&["--store", "memory:"], &environment);
    Setup { authority, files, server }
}

fn asks_for_certificates(mode: &str, roles: &str) -> Setup {
    serve_with(&[
        ("LOCKBAY_TLS_CLIENT_CA", "{authority}"),
        ("LOCKBAY_TLS_CLIENT_AUTH", mode),
        ("LOCKBAY_TLS_CLIENT_ROLES", roles),
    ])
}

/// The exit code of a command that talks to this server, and what it said.
fn command(setup: &Setup, args: &[&str]) -> (Option<i32>, String) {
    let mut command = lockbay();
    command.args(args).env("LOCKBAY_URL", setup.server.url()).stdin(Stdio::null());
    let output = command.output().expect("the binary runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_client_that_trusts_the_authority_is_answered_and_another_turns_away() {
    let setup = serve_with(&[]);
    let to = setup.server.address();
    assert!(setup.server.url().starts_with("https://"));
    TlsClient::new(&setup.authority, None).get(to, LIVE).unwrap().ok();
    let stranger = Authority::new();
    assert!(TlsClient::new(&stranger, None).connect(to).is_err());

    let authority = setup.files.path("authority.pem");
    let (code, said) = command(&setup, &["leader", "status", "--ca-cert", &authority]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = command(&setup, &["leader", "status"]);
    assert!(code == Some(2) && said.contains("--ca-cert"), "{said}");
    let (code, said) = command(&setup, &["leader", "status", "--ca-cert", "/nowhere.pem"]);
    assert!(code == Some(2) && said.contains("/nowhere.pem"), "{said}");
}

#[test]
fn plain_http_is_told_to_use_https_and_http_1_1_is_what_is_agreed() {
    let setup = serve_with(&[]);
    let to = setup.server.address();
    let reply = send(to, "GET", LIVE, &[], b"").unwrap();
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("https"), "{}", reply.text());
    assert_eq!(reply.header("content-length"), Some(reply.body.len().to_string().as_str()));
    let newer = TlsClient::offering(&setup.authority, None, &[b"h2", b"http/1.1"]);
    let stream = newer.connect(to).unwrap();
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(TlsClient::offering(&setup.authority, None, &[b"h2"]).connect(to).is_err());
}

#[test]
fn where_certificates_are_required_only_owners_of_a_role_are_let_in() {
    let setup = asks_for_certificates("required", "ops:operator, backup:viewer");
    let to = setup.server.address();
    let ask = |given: Option<&Given>| TlsClient::new(&setup.authority, given).get(to, LIVE);
    ask(Some(&setup.authority.client(&["ops"]))).unwrap().ok();
    assert!(ask(None).is_err(), "without a certificate TLS is not agreed");
    assert!(ask(Some(&Authority::new().client(&["ops"]))).is_err(), "of another authority");
    for names in [&["stranger"][..], &["OPS"], &["ops "], &[], &["ops:operator"]] {
        let reply = ask(Some(&setup.authority.client(names))).unwrap();
        let problem = reply.problem(403, "forbidden");
        assert!(problem["detail"].as_str().unwrap().contains("no role"), "{names:?} {problem}");
    }

    let ops = setup.authority.client(&["ops"]);
    let cert = setup.files.write("ops.pem", &ops.cert);
    let key = setup.files.write("ops.key", &ops.key);
    let authority = setup.files.path("authority.pem");
    let shown = ["--ca-cert", &authority, "--client-cert", &cert, "--client-key", &key];
    let (code, said) = command(&setup, &[&["leader", "status"][..], &shown].concat());
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = command(&setup, &[&["leader", "status"][..], &shown[..4]].concat());
    assert!(code == Some(2) && said.contains("--client-key"), "{said}");
    let (code, said) = command(&setup, &[&["leader", "status"][..], &shown[..2]].concat());
    assert_eq!(code, Some(2), "{said}");
}

#[test]
fn where_certificates_are_optional_who_shows_none_is_nobody_and_not_refused() {
    let setup = asks_for_certificates("optional", "ops:operator");
    let to = setup.server.address();
    let ask = |given: Option<&Given>| TlsClient::new(&setup.authority, given).get(to, LIVE);
    for given in
        [None, Some(setup.authority.client(&["ops"])), Some(setup.authority.client(&["x"]))]
    {
        ask(given.as_ref()).unwrap().ok();
    }
    assert!(ask(Some(&Authority::new().client(&["ops"]))).is_err(), "of another authority");
}

#[test]
fn a_cookie_that_does_not_count_leaves_the_owner_of_a_certificate_what_that_says() {
    let setup = asks_for_certificates("optional", "eye:viewer");
    let to = setup.server.address();
    let eye = TlsClient::new(&setup.authority, Some(&setup.authority.client(&["eye"])));
    let nobody = TlsClient::new(&setup.authority, None);
    let unknown = format!("lockbay_session={}", "0".repeat(64));
    let looks = || {
        for cookie in ["lockbay_session=x", &unknown] {
            let cookie = [("Cookie", cookie)];
            let who = eye.send(to, "GET", "/v1/session", &cookie, "").unwrap().ok();
            assert_eq!(
                (&who["authentication"], &who["role"], &who["actor"]),
                (&json!("certificate"), &json!("viewer"), &json!("eye"))
            );
            let refused = eye.send(to, "POST", "/v1/leader/resign", &cookie, "").unwrap();
            refused.problem(403, "forbidden");
        }
    };
    looks();
    let first = r#"{"role":"admin","name":"boss"}"#;
    let mine = eye.send(to, "POST", "/v1/tokens", &[JSON, ("Cookie", &unknown)], first).unwrap();
    mine.problem(403, "forbidden");
    assert_eq!(nobody.send(to, "POST", "/v1/tokens", &[JSON], first).unwrap().status, 201);
    looks();
    // Not even when the address has shown too much that does not count.
    let cookie = [("Cookie", unknown.as_str())];
    let limited = eventually("the address is slowed down", || {
        let reply = nobody.send(to, "GET", "/v1/session", &cookie, "").unwrap();
        (reply.status != 401).then_some(reply)
    });
    limited.problem(429, "busy");
    looks();
}

/// A connection lasts longer than the certificate that it began with.
#[test]
fn a_certificate_that_has_ended_counts_no_more_on_a_connection_that_goes_on() {
    let setup = asks_for_certificates("optional", "ops:operator");
    let to = setup.server.address();
    let now = Clock::system().now().as_micros() / 1_000_000;
    let brief = setup.authority.client_until("ops", now + 6);
    let client = TlsClient::new(&setup.authority, Some(&brief));
    let mut kept = client.connect(to).unwrap();
    let mut stream = client.connect(to).unwrap();
    let ask = |kept: &mut dyn ReadWrite, path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        kept.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        while !answer.contains("\r\n\r\n") || answer.matches(['{']).count() == 0 {
            let mut piece = [0; 4_096];
            let read = kept.read(&mut piece).unwrap();
            assert!(read > 0, "{answer}");
            answer.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
        answer
    };
    let heard = ask(&mut stream, "/v1/events?events=job_failed");
    assert!(heard.starts_with("HTTP/1.1 200") && heard.contains("listening"), "{heard}");
    let who = ask(&mut kept, "/v1/session");
    assert!(who.contains("\"certificate\"") && !who.contains("\"expires_at\":null"), "{who}");
    let ended = eventually("the certificate has ended", || {
        let who = ask(&mut kept, "/v1/session");
        (!who.starts_with("HTTP/1.1 200")).then_some(who)
    });
    assert!(ended.starts_with("HTTP/1.1 401") && ended.contains("ended at"), "{ended}");

    // The next event is not for its owner any more.
    let nobody = TlsClient::new(&setup.authority, None);
    let change = |path: &str, body: Value| {
        nobody.send(to, "POST", path, &[JSON], &body.to_string()).unwrap().ok()
    };
    let claim = json!({ "job_type": "t", "job_key": "k", "parameters": {} });
    let job = change("/v1/jobs/claim", claim);
    let failed = json!({ "claim_token": job["claim_token"], "error": "e", "retryable": false });
    change(&format!("/v1/jobs/{}/fail", job["job_id"].as_str().unwrap()), failed);
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    let rest = String::from_utf8_lossy(&rest);
    assert!(!rest.contains("job_failed"), "{rest}");
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

#[test]
fn without_roles_a_required_certificate_opens_the_door_and_names_nobody() {
    let setup = serve_with(&[
        ("LOCKBAY_TLS_CLIENT_CA", "{authority}"),
        ("LOCKBAY_TLS_CLIENT_AUTH", "required"),
    ]);
    let to = setup.server.address();
    let anybody = setup.authority.client(&["anybody"]);
    TlsClient::new(&setup.authority, Some(&anybody)).get(to, LIVE).unwrap().ok();
    assert!(TlsClient::new(&setup.authority, None).get(to, LIVE).is_err());
}

#[test]
fn a_new_certificate_is_shown_on_sighup_and_a_broken_one_leaves_the_old() {
    let setup = serve_with(&[]);
    let (to, client) = (setup.server.address(), TlsClient::new(&setup.authority, None));
    let mut kept = client.connect(to).unwrap();
    let first = client.shown(to);

    let second = setup.authority.server("second");
    setup.files.write("cert.pem", &second.cert);
    setup.files.write("key.pem", &second.key);
    setup.server.sighup();
    let second = eventually("the new certificate is shown", || {
        let shown = client.shown(to);
        (shown != first).then_some(shown)
    });

    for broken in ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let warnings = setup.server.log().matches("tls_not_reloaded").count();
        setup.files.write("cert.pem", broken);
        setup.server.sighup();
        eventually("the broken file is told", || {
            (setup.server.log().matches("tls_not_reloaded").count() > warnings).then_some(())
        });
        assert_eq!(client.shown(to), second, "{broken:?}");
    }
    let others_key = setup.authority.server("third");
    setup.files.write("cert.pem", &others_key.cert);
    setup.server.sighup();
    let log = eventually("a key that does not fit is told", || {
        Some(setup.server.log()).filter(|log| log.contains("tls_key"))
    });
    assert!(!log.contains("PRIVATE KEY"), "{log}");
    assert_eq!(client.shown(to), second);
    // Whoever was connected goes on.
    kept.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(kept.read(&mut [0; 512]).unwrap() > 0);
}

#[test]
fn a_new_certificate_is_noticed_without_a_signal() {
    let setup = serve_with(&[]);
    let (to, client) = (setup.server.address(), TlsClient::new(&setup.authority, None));
    let first = client.shown(to);
    let second = setup.authority.server("second");
    setup.files.write("key.pem", &second.key);
    setup.files.write("cert.pem", &second.cert);
    let pause = Duration::from_millis(50);
    eventually_within(2 * PATIENCE, pause, "the new certificate is shown", || {
        (client.shown(to) != first).then_some(())
    });
}

#[test]
fn clients_that_never_agree_on_tls_are_let_go_and_keep_nobody_out() {
    let setup = serve_with(&[("LOCKBAY_HEAD_TIMEOUT", "3")]);
    let (to, client) = (setup.server.address(), TlsClient::new(&setup.authority, None));
    let halves: [&[u8]; 4] =
        [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x16\x03\x01\xff\xff"];
    let mut silent: Vec<TcpStream> = (0..64)
        .map(|turn| {
            let mut stream = TcpStream::connect(to).unwrap();
            stream.write_all(halves[turn % halves.len()]).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        })
        .collect();
    client.get(to, LIVE).unwrap().ok();
    for stream in &mut silent {
        // An alert may come first; then the end, and no silence without end.
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
        }
    }
    client.get(to, LIVE).unwrap().ok();
}

/// The limits lie below TLS.
#[test]
fn slow_clients_are_cut_off_over_tls_as_well() {
    let setup = serve_with(&[("LOCKBAY_HEAD_TIMEOUT", "2s"), ("LOCKBAY_WRITE_TIMEOUT", "2s")]);
    let (to, client) = (setup.server.address(), TlsClient::new(&setup.authority, None));
    client.get(to, LIVE).unwrap().ok();
    let open_files = setup.server.open_files_at_rest();

    let mut slow = client.connect(to).unwrap();
    slow.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-A: ").unwrap();
    let ended = slow.read(&mut [0; 64]);
    assert!(!matches!(ended, Ok(1..)), "a head that is not whole is not answered");

    let mut deaf = client.connect(to).unwrap();
    let value = format!(r#"{{"value":"{}"}}"#, "v".repeat(500_000));
    let put = format!(
        "PUT /v1/state/long HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{value}",
        value.len()
    );
    let sent = deaf.write_all(put.as_bytes());
    let mut answer = [0; 512];
    let read = deaf.read(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(sent.is_ok() && answer.starts_with("HTTP/1.1 200 "), "{sent:?}, {read:?}: {answer}");
    let ask = "GET /v1/state/long HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(64);
    deaf.write_all(ask.as_bytes()).unwrap();
    eventually("the client that reads nothing is let go", || {
        (setup.server.open_files() <= open_files).then_some(())
    });
    client.get(to, LIVE).unwrap().ok();
}

#[test]
fn garbage_where_tls_is_spoken_ends_that_connection_alone() {
    let setup = serve_with(&[]);
    let (to, client) = (setup.server.address(), TlsClient::new(&setup.authority, None));
    for garbage in [
        &b"\x16\x03\x01\x00\x05hello"[..],
        b"\x16\xff\xff\xff\xff",
        b"\x80\x2e\x01\x00\x02",
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        &[0; 4_096],
        &[0xff; 65_536],
    ] {
        if let Ok(reply) = send_bytes(to, garbage) {
            assert_eq!(reply.status, 400);
        }
        client.get(to, LIVE).unwrap().ok();
    }
}

#[test]
fn settings_that_cannot_work_together_stop_the_start_with_their_names() {
    let (authority, files) = (Authority::new(), Files::new());
    let Given { cert, key } = authority.server("x");
    let (cert, key) = (files.write("cert.pem", &cert), files.write("key.pem", &key));
    let other = files.write("other.key", &authority.server("y").key);
    let (c, k) = (("LOCKBAY_TLS_CERT", cert.as_str()), ("LOCKBAY_TLS_KEY", key.as_str()));
    let ca = ("LOCKBAY_TLS_CLIENT_CA", cert.as_str());
    let required = ("LOCKBAY_TLS_CLIENT_AUTH", "required");
    let roles = |text| ("LOCKBAY_TLS_CLIENT_ROLES", text);
    for (environment, named) in [
        (vec![c], "tls_key"),
        (vec![k], "tls_cert"),
        (vec![c, ("LOCKBAY_TLS_KEY", &other)], "tls_key"),
        (vec![("LOCKBAY_TLS_CERT", &key), k], "tls_cert"),
        (vec![c, ("LOCKBAY_TLS_KEY", &cert)], "tls_key"),
        (vec![("LOCKBAY_TLS_CERT", "/nowhere"), k], "/nowhere"),
        (vec![required], "tls_cert"),
        (vec![c, k, required], "tls_client_ca"),
        (vec![c, k, ca], "tls_client_auth"),
        (vec![c, k, roles("ops:viewer")], "tls_client_auth"),
        (vec![c, k, ca, ("LOCKBAY_TLS_CLIENT_AUTH", "always")], "tls_client_auth"),
        (vec![c, k, ca, required, roles("ops")], "tls_client_roles"),
        (vec![c, k, ca, required, roles("ops:king")], "tls_client_roles"),
        (vec![c, k, ca, required, roles(":viewer")], "tls_client_roles"),
        (vec![c, k, ca, required, roles("a:viewer,a:admin")], "tls_client_roles"),
    ] {
        let mut command = lockbay();
        command.args(["serve", "--store", "memory:", "--listen", "127.0.0.1:0"]);
        let output = command.envs(environment.clone()).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{environment:?} {said}");
        assert!(said.contains(named) && said.trim().lines().count() == 1, "{said}");
    }
}

/// Others may come in where only owners of certificates can.
#[test]
fn an_address_that_others_reach_needs_certificates_or_a_word() {
    let (authority, files) = (Authority::new(), Files::new());
    let Given { cert, key } = authority.server("x");
    let (cert, key) = (files.write("cert.pem", &cert), files.write("key.pem", &key));
    let ca = files.write("authority.pem", authority.pem());
    let tls = [("LOCKBAY_TLS_CERT", cert.as_str()), ("LOCKBAY_TLS_KEY", &key)];
    let mut command = lockbay();
    command.args(["serve", "--store", "memory:", "--listen", "0.0.0.0:0"]).envs(tls);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("tls_client_auth"), "{said}");
    let mutual =
        [tls[0], tls[1], ("LOCKBAY_TLS_CLIENT_CA", &ca), ("LOCKBAY_TLS_CLIENT_AUTH", "required")];
    let server = Server::start_with(&["--store", "memory:", "--listen", "0.0.0.0:0"], &mutual);
    assert!(server.log().contains("https://0.0.0.0:"));
}

/// The blocks of docs/tls.md, in their order, in a directory of their own.
#[test]
fn what_the_document_about_tls_says_to_type_does_what_it_says() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/tls.md");
    let document = std::fs::read_to_string(document).unwrap();
    let home = tempfile::tempdir().unwrap();
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_lockbay"));
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", binary.parent().unwrap().display());
    let mut server: Option<Server> = None;
    let mut ran = 0;
    for block in document.split("\n```").skip(1).step_by(2) {
        let (language, text) = block.split_once('\n').unwrap();
        match language {
            "toml" => {
                let here = format!("= \"{}/", home.path().display());
                let text: String = text
                    .lines()
                    .map(|line| match line.contains(".pem\"") || line.contains(".key\"") {
                        true => format!("{}\n", line.replace("= \"", &here)),
                        false => format!("{line}\n"),
                    })
                    .collect();
                let file = home.path().join("lockbay.toml");
                std::fs::write(&file, text).unwrap();
                let file = file.to_str().unwrap();
                server = Some(Server::start(&["--store", "memory:", "--config", file]));
            }
            "sh" => {
                let port = server.as_ref().map_or(0, |server| server.address().port());
                let text = text.replace("localhost:5000", &format!("localhost:{port}"));
                let mut shell = std::process::Command::new("bash");
                shell.args(["-euo", "pipefail", "-c", &text]).current_dir(home.path());
                let output = shell.env("PATH", &path).stdin(Stdio::null()).output().unwrap();
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{text}\n{said}");
                ran += 1;
            }
            other => panic!("what is a block of {other:?}?"),
        }
    }
    assert_eq!(ran, 4, "blocks that were run");
}
