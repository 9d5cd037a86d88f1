//! The dashboard as it is served: every file that another names is there, all of them are held to a
//! strict policy and to a size, nothing comes from elsewhere; and what it asks about this server.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::{Server, eventually};

/// What all files together may come to, each compressed.
const MAX_COMPRESSED: usize = 250 * 1024;
/// Addresses that are names and not fetched.
const NAMES: &[&str] = &["http://www.w3.org/2000/svg", "https://github.com/leeoniya/uPlot"];

const BROWSER: (&str, &str) = ("Accept", "text/html,application/xhtml+xml,*/*;q=0.8");

fn server() -> Server {
    Server::start(&["--store", "memory:", "--instance-name", "web-1"])
}

fn assets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets")
}

/// Every file, by its path below the assets.
fn files() -> Vec<(String, Vec<u8>)> {
    let (root, mut found) = (assets(), Vec::new());
    let mut left = vec![root.clone()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder).expect("the folder is readable") {
            let path = entry.expect("an entry is readable").path();
            if path.is_dir() {
                left.push(path);
            } else {
                let name =
                    path.strip_prefix(&root).expect("it lies below").to_string_lossy().into();
                found.push((name, fs::read(&path).expect("a file is readable")));
            }
        }
    }
    found.sort();
    found
}

/// Those that are written here.
fn own_texts() -> Vec<(String, String)> {
    let own = files().into_iter().filter(|(name, _)| !name.starts_with("vendor/"));
    own.map(|(name, bytes)| (name, String::from_utf8(bytes).expect("it is text"))).collect()
}

/// What stands between each `before` and the next `after`.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Vec<&'a str> {
    text.split(before).skip(1).filter_map(|rest| Some(rest.split_once(after)?.0)).collect()
}

/// A relative address as seen from a file.
fn resolve(from: &str, address: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in address.split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Every file that a file names.
fn references(name: &str, text: &str) -> Vec<String> {
    let named = |addresses: Vec<&str>| -> Vec<String> {
        addresses.into_iter().map(|address| resolve(name, address)).collect()
    };
    if name == "index.html" {
        let mut found = between(text, "src=\"", "\"");
        found.extend(between(text, "href=\"", "\"").into_iter().filter(|to| !to.starts_with('#')));
        let below = |to: &&str| to.strip_prefix("assets/").expect("a relative address").to_owned();
        return found.iter().map(below).collect();
    }
    if name.ends_with(".css") {
        return named(between(text, "url(\"", "\")"));
    }
    let begins = ["import ", "export ", "} from "];
    let lines = text.lines().filter(|line| begins.iter().any(|begin| line.starts_with(begin)));
    let lines: Vec<&str> = lines.collect();
    let mut found = named(between(&lines.join("\n"), " from \"", "\""));
    found.extend(named(between(text, "import(\"", "\")")));
    if name == "js/pages.js" {
        let pages = between(text, "page(\"", ")");
        let modules = pages.iter().filter_map(|page| page.split('"').nth(2));
        found.extend(modules.map(|module| format!("js/pages/{module}.js")));
    }
    found
}

#[test]
fn a_browser_gets_the_page_and_everybody_else_what_is_here() {
    let server = server();
    let page = server.send("GET", "/", &[BROWSER], b"");
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.text().contains("assets/js/app.js"));
    assert_eq!(page.header("vary"), Some("accept"));
    let index = server.get("/");
    assert_eq!(index.ok()["name"], "lockbay");
    assert_eq!(index.header("cache-control"), Some("no-store"));
    assert_eq!(index.header("vary"), Some("accept"));
    server.send("GET", "/", &[("Accept", "application/json")], b"").ok();
}

#[test]
fn every_file_that_another_names_is_served_and_none_lies_around() {
    let server = server();
    let mut named: BTreeSet<String> = BTreeSet::from(["index.html".into()]);
    for (name, text) in own_texts() {
        named.extend(references(&name, &text));
    }
    assert!(named.len() > 15, "references are found: {named:?}");
    for name in &named {
        let reply = server.get(&format!("/assets/{name}"));
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
        assert_eq!(reply.body, fs::read(assets().join(name)).unwrap(), "{name}");
    }
    let there: BTreeSet<String> = files().into_iter().map(|(name, _)| name).collect();
    let unused: Vec<&String> =
        there.difference(&named).filter(|name| !name.ends_with(".LICENSE")).collect();
    assert!(unused.is_empty(), "nobody names {unused:?}");
}

#[test]
fn every_file_has_a_type_a_strict_policy_and_a_tag_by_which_it_is_kept() {
    let server = server();
    for (name, _) in files() {
        let path = format!("/assets/{name}");
        let reply = server.get(&path);
        assert_eq!(reply.status, 200, "{name}");
        let policy = reply.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"));
        assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"));
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.header("cache-control"), Some("no-cache"));
        let expected = match name.rsplit('.').next().unwrap() {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "html" => "text/html; charset=utf-8",
            "svg" => "image/svg+xml",
            _ => "text/plain; charset=utf-8",
        };
        assert_eq!(reply.header("content-type"), Some(expected), "{name}");
        let tag = reply.header("etag").unwrap();
        let again = server.send("GET", &path, &[("If-None-Match", tag)], b"");
        assert_eq!((again.status, again.body.len()), (304, 0), "{name}");
        assert_eq!(again.header("etag"), Some(tag));
        let other = server.send("GET", &path, &[("If-None-Match", "\"0\"")], b"");
        assert_eq!(other.status, 200, "{name}");
    }
}

#[test]
fn nothing_else_of_the_machine_is_served() {
    let server = server();
    for path in [
        "/assets/../Cargo.toml",
        "/assets/%2e%2e/Cargo.toml",
        "/assets/..%2fCargo.toml",
        "/assets/js",
        "/assets/none.js",
        "/assets/js%00.js",
        "/assets//etc/hosts.js",
    ] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
    server.get("/assets/none.js").problem(404, "not-found");
}

#[test]
fn the_files_come_to_no_more_than_they_may() {
    let sizes: Vec<(String, usize)> =
        files().into_iter().map(|(name, bytes)| (name, compressed(bytes))).collect();
    let total: usize = sizes.iter().map(|(_, size)| size).sum();
    println!("{total} bytes compressed, of {MAX_COMPRESSED}");
    assert!(total <= MAX_COMPRESSED, "{total} bytes: {sizes:?}");
}

fn compressed(bytes: Vec<u8>) -> usize {
    let mut gzip = Command::new("gzip");
    let mut gzip = gzip
        .arg("-9c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip is installed");
    let mut stdin = gzip.stdin.take().expect("stdin is piped");
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = gzip.wait_with_output().expect("gzip ends");
    writer.join().expect("the writer is whole").expect("gzip reads");
    output.stdout.len()
}

#[test]
fn nothing_comes_from_elsewhere_and_nothing_is_written_inline() {
    for (name, bytes) in files() {
        let text = String::from_utf8_lossy(&bytes);
        let text = NAMES.iter().fold(text.into_owned(), |text, name| text.replace(name, ""));
        for address in ["http://", "https://", "src=\"/", "href=\"/", "url(\"/", "url(/"] {
            assert!(!text.contains(address), "{name} has {address}");
        }
    }
    for (name, text) in own_texts() {
        let forbidden: &[&str] = match name.rsplit('.').next().unwrap() {
            "html" => &["<style", "style=", " onclick=", " onload=", "javascript:", "<script>"],
            "js" => &["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("],
            _ => &[],
        };
        for word in forbidden {
            assert!(!text.contains(word), "{name} has {word}");
        }
    }
}

#[test]
fn no_two_pages_share_a_route_or_a_key() {
    let text = fs::read_to_string(assets().join("js/pages.js")).unwrap();
    for (what, before) in [("route", "page(\""), ("key", "key: \"")] {
        let found = between(&text, before, "\"");
        let unique: BTreeSet<&&str> = found.iter().collect();
        assert!(!found.is_empty() && unique.len() == found.len(), "each {what} once: {found:?}");
    }
}

#[test]
fn a_server_says_what_it_is_and_keeps_the_password_of_its_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}?namespace=pay", folder.path().join("a.db").display());
    let environment = [("LOCKBAY_ENVIRONMENT", "staging"), ("LOCKBAY_AUDIT", "false")];
    let server = Server::start_with(&["--store", &store], &environment);
    let about = server.get("/v1/about").ok();
    assert_eq!(about["name"], "lockbay");
    assert_eq!(about["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(about["environment"], "staging");
    assert_eq!(about["instance_id"], server.instance_id());
    assert_eq!(about["namespace"], "pay");
    assert_eq!(about["authentication"], "open");
    assert_eq!((&about["audit"], &about["monitoring"]), (&false.into(), &true.into()));
    assert!(about["store"].as_str().unwrap().ends_with("a.db"), "{about}");
    assert!(about["started_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(about["instance_name"], Value::Null);
}

#[test]
fn instances_are_listed_while_they_live() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", folder.path().join("a.db").display());
    let start = |name| Server::start(&["--store", &store, "--instance-name", name]);
    let (first, mut second) = (start("web-1"), start("web-2"));
    eventually("somebody leads", || first.leader());
    let listed = |server: &Server| -> Vec<Value> {
        server.get("/v1/instances").ok()["items"].as_array().unwrap().clone()
    };
    let both = eventually("both are listed", || Some(listed(&first)).filter(|all| all.len() == 2));
    let of = |all: &[Value], server: &Server| {
        let id = server.instance_id();
        all.iter().find(|one| one["instance_id"] == id.as_str()).cloned().unwrap()
    };
    let (one, other) = (of(&both, &first), of(&both, &second));
    assert_eq!((&one["is_self"], &other["is_self"]), (&true.into(), &false.into()));
    assert_eq!(
        (&one["instance_name"], &other["instance_name"]),
        (&"web-1".into(), &"web-2".into())
    );
    let leaders = both.iter().filter(|one| one["is_leader"] == true).count();
    assert_eq!(leaders, 1, "{both:?}");
    assert_eq!(one["version"], env!("CARGO_PKG_VERSION"));
    assert!(one["last_seen"].is_string() && one["started_at"].is_string(), "{one}");
    let page = first.get("/v1/instances?page_size=1").ok();
    let token = page["next_page_token"].as_str().unwrap();
    let rest = first.get(&format!("/v1/instances?page_size=1&page_token={token}")).ok();
    assert_ne!(page["items"][0]["instance_id"], rest["items"][0]["instance_id"]);
    second.sigterm();
    second.wait_exit(Duration::from_secs(20));
    eventually("the one that ended is gone", || (listed(&first).len() == 1).then_some(()));
}
