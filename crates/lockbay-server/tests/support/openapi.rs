//! A client that believes the OpenAPI document: whatever it sends and is told must be as described.

use std::collections::BTreeSet;

use serde_json::Value;

use super::http::{JSON, Reply};
use super::schema::{faults, resolve};
use super::{Server, breathe};

/// A server, what it says of itself, and which of its operations have answered.
pub(crate) struct Described {
    pub(crate) server: Server,
    pub(crate) document: Value,
    answered: BTreeSet<String>,
}

impl Described {
    /// Reads what a server says of itself.
    pub(crate) fn new(server: Server) -> Self {
        let document = server.get("/openapi.json").ok();
        Described { server, document, answered: BTreeSet::new() }
    }

    /// Asks, holds the answer and what was asked against the document, and gives the answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, method: &str, path: &str, body: &str) -> Reply {
        self.ask_with(method, path, &[], body)
    }

    /// The same with headers.
    #[track_caller]
    pub(crate) fn ask_with(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        let mut headers = headers.to_vec();
        if !body.is_empty() {
            headers.push(JSON);
        }
        let reply = self.server.send(method, path, &headers, body.as_bytes());
        let operation = self.operation(method, path).clone();
        let call = format!("{method} {path}");
        self.check_answer(&call, &operation, &reply);
        if reply.status < 300 {
            self.check_request(&call, &operation, path, body);
            self.answered.insert(operation["operationId"].as_str().expect("an id").to_owned());
        }
        reply
    }

    /// Asks until the answer is as wished for.
    #[track_caller]
    pub(crate) fn ask_until(&mut self, path: &str, wished: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..5_000 {
            let answer = self.ask("GET", path, "").json();
            if wished(&answer) {
                return answer;
            }
            breathe(std::time::Duration::from_millis(2));
        }
        panic!("GET {path} does not come to be as wished for")
    }

    /// The operations under these tags that have not succeeded yet.
    pub(crate) fn silent(&self, tags: &[&str]) -> BTreeSet<String> {
        let paths = self.document["paths"].as_object().expect("paths").values();
        let operations = paths.flat_map(|path| path.as_object().expect("operations").values());
        let meant = operations.filter(|operation| {
            tags.iter()
                .any(|tag| operation["tags"].as_array().expect("tags").contains(&(*tag).into()))
        });
        let ids = meant.map(|operation| operation["operationId"].as_str().expect("an id"));
        ids.filter(|id| !self.answered.contains(*id)).map(str::to_owned).collect()
    }

    /// What the document says of a call.
    #[track_caller]
    fn operation(&self, method: &str, path: &str) -> &Value {
        let path = path.split('?').next().expect("a path");
        let paths = self.document["paths"].as_object().expect("paths");
        // A path without parameters comes before one with.
        let fitting = paths.keys().filter(|template| fits(template, path));
        let template = fitting.min_by_key(|template| template.matches('{').count());
        let template = template.unwrap_or_else(|| panic!("{path} is not described"));
        let operation = paths[template].get(method.to_lowercase());
        operation.unwrap_or_else(|| panic!("{method} {template} is not described"))
    }

    #[track_caller]
    fn check_answer(&self, call: &str, operation: &Value, reply: &Reply) {
        let described = &operation["responses"][reply.status.to_string()];
        let text = reply.text();
        assert!(described.is_object(), "{call}: {} is not described: {text}", reply.status);
        let described = resolve(&self.document, described);
        let Some(content) = described["content"].as_object() else {
            assert!(reply.body.is_empty(), "{call}: there is a body: {text}");
            return;
        };
        let kind = reply.header("content-type").unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default();
        let media = content.get(kind).or_else(|| content.get(essence));
        let media = media.unwrap_or_else(|| panic!("{call}: {kind} is not described"));
        if essence == "application/json" || essence.ends_with("+json") {
            let faults = faults(&self.document, &media["schema"], &reply.json());
            assert!(faults.is_empty(), "{call}: {faults:#?} in {text}");
        }
        for name in described["headers"].as_object().into_iter().flat_map(|named| named.keys()) {
            let given = reply.header(&name.to_lowercase());
            let may_be_missing = ["Idempotency-Replayed", "Retry-After"].contains(&name.as_str());
            assert!(given.is_some() || may_be_missing, "{call}: there is no header {name}");
        }
    }

    /// What was accepted must be what the document says is accepted.
    #[track_caller]
    fn check_request(&self, call: &str, operation: &Value, path: &str, body: &str) {
        if !body.is_empty() {
            let media = &operation["requestBody"]["content"]["application/json"];
            assert!(media.is_object(), "{call}: a body is not described");
            let body = serde_json::from_str(body).expect("a body of JSON");
            let faults = faults(&self.document, &media["schema"], &body);
            assert!(faults.is_empty(), "{call}: {faults:#?} in {body}");
        }
        let query = path.split_once('?').map(|(_, query)| query).unwrap_or_default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let name = pair.split('=').next().expect("a name");
            let parameters = operation["parameters"].as_array().expect("parameters").iter();
            let mut resolved = parameters.map(|given| resolve(&self.document, given));
            let found = resolved.any(|given| given["in"] == "query" && given["name"] == name);
            assert!(found, "{call}: the parameter {name} is not described");
        }
    }
}

fn fits(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) =
        (template.split('/').collect(), path.split('/').collect());
    let same = |(wished, given): (&&str, &&str)| wished.starts_with('{') || wished == given;
    template.len() == path.len() && template.iter().zip(&path).all(same)
}
