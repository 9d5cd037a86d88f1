//! The OpenAPI document is whole, and what a real server takes and answers is what it says.
//!
//! Each walk goes through all operations of its tags, and every answer on the way, refusals
//! included, is held against the document, as is every body that was accepted.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};
use support::http::Reply;
use support::openapi::Described;
use support::schema::resolve;
use support::{Server, eventually};

fn described() -> Described {
    Described::new(Server::start(&["--store", "memory:"]))
}

/// Every operation with its method and path.
fn operations(document: &Value) -> Vec<(String, Value)> {
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations.push((format!("{} {path}", method.to_uppercase()), operation.clone()));
        }
    }
    operations
}

/// Calls `visit` with every object in the document, and where it is.
fn walk<'d>(value: &'d Value, at: &str, visit: &mut impl FnMut(&str, &'d Value)) {
    match value {
        Value::Object(members) => {
            visit(at, value);
            for (name, member) in members {
                walk(member, &format!("{at}/{name}"), visit);
            }
        }
        Value::Array(items) => {
            for (place, item) in items.iter().enumerate() {
                walk(item, &format!("{at}/{place}"), visit);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn the_document_is_openapi_3_1_and_every_reference_leads_somewhere() {
    let Described { document, .. } = described();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    assert_eq!(document["info"]["title"], "LockBay");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let mut referenced = BTreeSet::new();
    walk(&document, "", &mut |_, object| {
        if let Some(place) = object.get("$ref").and_then(Value::as_str) {
            assert!(!resolve(&document, object).is_null(), "{place}");
            referenced.insert(place.to_owned());
        }
    });
    for (section, components) in document["components"].as_object().unwrap() {
        for name in components.as_object().unwrap().keys() {
            let place = format!("#/components/{section}/{name}");
            let used = section == "securitySchemes" || referenced.contains(&place);
            assert!(used, "nothing refers to {place}");
        }
    }
}

#[test]
fn every_schema_says_which_type_it_is_and_refused_members_are_said_to_be() {
    let Described { document, .. } = described();
    walk(&document, "", &mut |at, object| {
        let schema = object.get("properties").is_some_and(Value::is_object);
        if schema && !at.ends_with("/properties") {
            assert_eq!(object["type"], "object", "{at}");
            let names: BTreeSet<&String> =
                object["properties"].as_object().unwrap().keys().collect();
            for name in object.get("required").and_then(Value::as_array).into_iter().flatten() {
                assert!(names.contains(&name.as_str().unwrap().to_owned()), "{at}: {name}");
            }
        }
    });
    for (call, operation) in operations(&document) {
        let media = &operation["requestBody"]["content"]["application/json"]["schema"];
        if !media.is_null() {
            let schema = resolve(&document, media);
            assert_eq!(
                schema["additionalProperties"], false,
                "{call} refuses what it does not know"
            );
        }
    }
}

#[test]
fn every_operation_says_what_it_is_called_for_what_and_what_can_go_wrong() {
    let Described { document, .. } = described();
    let tags: Vec<&Value> =
        document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    let mut ids = BTreeSet::new();
    for (call, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap_or_default();
        let snake = id.chars().all(|c| c.is_ascii_lowercase() || c == '_') && id.contains('_');
        assert!(snake, "{call}: {id}");
        assert!(ids.insert(id.to_owned()), "{call}: {id} is taken");
        let named = operation["tags"].as_array().unwrap();
        assert!(named.len() == 1 && tags.contains(&&named[0]), "{call}: {named:?}");
        let text = |member: &str| operation[member].as_str().unwrap_or_default().to_owned();
        assert!(!text("summary").is_empty() && !text("summary").ends_with('.'), "{call}");
        assert!(text("description").ends_with('.'), "{call}: a description in sentences");
        let role = text("x-required-role");
        assert!(["none", "viewer", "operator", "admin"].contains(&role.as_str()), "{call}: {role}");
        assert_eq!(operation["security"].as_array().unwrap().is_empty(), role == "none", "{call}");
        let statuses: BTreeSet<&str> =
            operation["responses"].as_object().unwrap().keys().map(String::as_str).collect();
        assert!(statuses.iter().any(|status| status.starts_with(['2', '3'])), "{call}");
        let expected: &[&str] = if role == "none" {
            &["400", "500"]
        } else {
            &["400", "401", "403", "429", "500", "503"]
        };
        for status in expected {
            assert!(statuses.contains(status), "{call} has no {status}");
        }
        for (status, response) in operation["responses"].as_object().unwrap() {
            let response = resolve(&document, response);
            assert!(!response["description"].as_str().unwrap().is_empty(), "{call} {status}");
            let problem = &response["content"]["application/problem+json"];
            // Health reports what is wrong in its own words.
            let is_problem = status.starts_with('4') || status == "504";
            assert!(!is_problem || problem.is_object(), "{call}: {status} is a problem");
        }
    }
}

/// The rows of the table of accesses, by its text: it is no part of any library.
fn accesses() -> BTreeSet<(String, String)> {
    let source = include_str!("../src/http/access.rs");
    let rows =
        source.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.strip_suffix("),"));
    let row = |row: &str| {
        let (method, rest) = row.split_once("\", \"").unwrap();
        let (path, need) = rest.split_once("\", ").unwrap();
        let role = need.trim_start_matches("Least(").trim_end_matches(')').to_lowercase();
        let role = if role == "open" { "none".to_owned() } else { role };
        (format!("{method} {path}"), role)
    };
    rows.map(row).collect()
}

#[test]
fn every_row_of_the_table_of_accesses_is_an_operation_with_its_role_and_the_reverse() {
    let Described { document, .. } = described();
    let role = |operation: &Value| operation["x-required-role"].as_str().unwrap().to_owned();
    let described: BTreeSet<(String, String)> = operations(&document)
        .into_iter()
        .map(|(call, operation)| (call, role(&operation)))
        .collect();
    let mut table = accesses();
    assert!(table.len() > 90, "rows are found");
    // Files of the dashboard are no part of the API.
    assert!(table.remove(&("GET /assets/{*path}".to_owned(), "none".to_owned())));
    let only = |one: &BTreeSet<(String, String)>, other| -> Vec<(String, String)> {
        one.difference(other).cloned().collect()
    };
    assert_eq!((only(&described, &table), only(&table, &described)), (Vec::new(), Vec::new()));
}

#[test]
fn every_parameter_of_a_path_is_described_and_every_parameter_says_what_it_means() {
    let Described { document, .. } = described();
    for (call, operation) in operations(&document) {
        let wished: BTreeSet<&str> =
            call.split('{').skip(1).filter_map(|rest| rest.split('}').next()).collect();
        let mut given = BTreeSet::new();
        for parameter in operation["parameters"].as_array().unwrap() {
            let parameter = resolve(&document, parameter);
            let name = parameter["name"].as_str().unwrap();
            assert!(parameter["description"].is_string(), "{call}: {name}");
            let schema = resolve(&document, &parameter["schema"]);
            assert!(schema["type"].is_string() || schema["oneOf"].is_array(), "{call}: {schema}");
            if parameter["in"] == "path" {
                assert_eq!(parameter["required"], true, "{call}: {name}");
                given.insert(name);
            }
        }
        assert_eq!(given, wished, "{call}");
    }
}

/// Schemas are kept by name, and one that has the name of another takes its place unseen.
#[test]
fn no_two_types_of_the_code_have_the_same_name_in_the_document() {
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for name in described_types(&text) {
                let here = path.display().to_string();
                let other = names.insert(name.clone(), here.clone());
                assert_eq!(other, None, "{name} of {here} is also the name of another");
            }
        }
    }
    assert!(names.len() > 100, "types are found");
}

/// The names under which the types of a file are described.
fn described_types(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    for (at, _) in text.match_indices("ToSchema)]\n") {
        let item = &text[at..];
        let head = item.find("struct ").into_iter().chain(item.find("enum ")).min().unwrap();
        let given = item[..head].split("(as = ").nth(1);
        let name = given.unwrap_or_else(|| item[head..].split_once(' ').unwrap().1);
        names.push(name.chars().take_while(|c| is_word(*c)).collect());
    }
    let by_hand = text.split("impl ToSchema for ").skip(1);
    names.extend(by_hand.map(|rest| rest.chars().take_while(|c| is_word(*c)).collect()));
    names
}

#[test]
fn the_document_is_not_sent_again_to_who_has_it_and_needs_no_credentials() {
    let mut api = described();
    let first = api.ask("GET", "/openapi.json", "");
    let etag = first.header("etag").unwrap().to_owned();
    assert_eq!(first.header("cache-control"), Some("no-cache"));
    let again = api.ask_with("GET", "/openapi.json", &[("If-None-Match", &etag)], "");
    assert_eq!((again.status, again.body.len()), (304, 0));
    assert_eq!(again.header("etag"), Some(&*etag));
    let other = api.ask_with("GET", "/openapi.json", &[("If-None-Match", "\"0\"")], "");
    assert_eq!(other.status, 200);
    let calls = api.ask("GET", "/", "").json()["calls"].clone();
    assert!(calls.as_array().unwrap().contains(&json!("GET|POST|PUT|DELETE /v1/leases/{name}")));
}

fn text(value: &Value, member: &str) -> String {
    value[member].as_str().unwrap_or_else(|| panic!("{member} in {value}")).to_owned()
}

#[test]
fn leases_and_leadership_answer_as_described() {
    let mut api = described();
    api.server.wait_until_leading();
    api.ask("GET", "/v1/leader", "");
    assert_eq!(api.ask("POST", "/v1/leader/resign", "").status, 200);
    // Alone as it is, it leads again half a second later.
    eventually("it is refused", || {
        (api.ask("POST", "/v1/leader/resign", "").status == 409).then_some(())
    });
    let path = "/v1/leases/nightly%2Freport";
    let wish = r#"{"holder":"web-1","ttl_seconds":30.5}"#;
    let key = [("Idempotency-Key", "one")];
    let token = text(&api.ask_with("POST", path, &key, wish).json(), "fencing_token");
    let again = api.ask_with("POST", path, &key, wish);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(api.ask("POST", path, wish).status, 409);
    let renew =
        |token: &str| json!({ "holder": "web-1", "fencing_token": token, "ttl_seconds": 60 });
    assert_eq!(api.ask("PUT", path, &renew(&token).to_string()).status, 200);
    assert_eq!(api.ask("PUT", path, &renew("1").to_string()).status, 409);
    api.ask("POST", "/v1/leases/other", wish);
    api.ask("GET", "/v1/leases?page_size=1", "");
    assert_eq!(api.ask("GET", "/v1/leases?page_size=1001", "").status, 400);
    api.ask("GET", path, "");
    assert_eq!(api.ask("DELETE", &format!("{path}?fencing_token=1"), "").status, 409);
    assert_eq!(api.ask("DELETE", &format!("{path}?fencing_token={token}"), "").status, 200);
    assert_eq!(api.ask("GET", path, "").status, 404);
    assert_eq!(api.silent(&["leases", "leader"]), BTreeSet::new());
}

#[test]
fn jobs_answer_as_described() {
    let mut api = described();
    let claim = |key: &str| {
        json!({ "job_type": "pay", "job_key": key, "parameters": { "n": [1, null, "x"] },
            "scheduled_time": "2026-01-01T00:00:00Z", "identity": "key", "claim_ttl_seconds": 30,
            "max_retries": 2, "on_in_progress": "reject", "on_failed": "rerun", "holder": "w",
            "leader_only": false })
        .to_string()
    };
    let claimed = api.ask("POST", "/v1/jobs/claim", &claim("a")).json();
    let (id, token) = (text(&claimed, "job_id"), claimed["claim_token"].clone());
    assert_eq!(api.ask("POST", "/v1/jobs/claim", &claim("a")).status, 409);
    let other = r#"{"job_type":"pay","job_key":"a","parameters":1,"identity":"key"}"#;
    assert_eq!(api.ask("POST", "/v1/jobs/claim", other).status, 422);
    let at = |id: &str, verb: &str| format!("/v1/jobs/{id}/{verb}");
    let beat = json!({ "claim_token": token }).to_string();
    assert_eq!(api.ask("POST", &at(&id, "heartbeat"), &beat).status, 200);
    let fail = json!({ "claim_token": token, "error": "closed", "retryable": true }).to_string();
    assert_eq!(api.ask("POST", &at(&id, "fail"), &fail).json()["will_retry"], true);
    api.ask("GET", &format!("/v1/jobs/{id}"), "");
    let why = r#"{"reason":"the bank is open"}"#;
    assert_eq!(api.ask("POST", &at(&id, "retry"), why).status, 200);
    let claimed = api.ask("POST", "/v1/jobs/claim", &claim("a")).json();
    let done = json!({ "claim_token": claimed["claim_token"], "result": { "id": 7 } }).to_string();
    assert_eq!(api.ask("POST", &at(&id, "complete"), &done).status, 200);
    assert_eq!(api.ask("POST", &at(&id, "heartbeat"), &beat).status, 409);
    assert_eq!(api.ask("POST", "/v1/jobs/claim", &claim("a")).json()["outcome"], "replayed");
    assert_eq!(api.ask("POST", &at(&id, "cancel"), why).status, 409);
    let other = text(&api.ask("POST", "/v1/jobs/claim", &claim("b")).json(), "job_id");
    assert_eq!(api.ask("POST", &at(&other, "cancel"), why).status, 200);
    assert_eq!(api.ask("POST", &at("none", "cancel"), why).status, 404);
    assert_eq!(api.ask("POST", &at(&other, "cancel"), r#"{"reason":" "}"#).status, 400);
    for query in ["", "?status=cancelled", "?job_key=a&page_size=1", "?job_type=pay&page_size=1"] {
        let page = api.ask("GET", &format!("/v1/jobs{query}"), "").json();
        assert!(!page["items"].as_array().unwrap().is_empty(), "{query}");
    }
    let bulk = r#"{"decision":"retry","filter":{"job_type":"pay"},"reason":"why","dry_run":true}"#;
    assert_eq!(api.ask("POST", "/v1/jobs/bulk", bulk).status, 200);
    assert_eq!(api.ask("POST", "/v1/jobs/bulk", &bulk.replace("true", "false")).status, 200);
    assert_eq!(api.silent(&["jobs"]), BTreeSet::new());
}

/// A saga of one step whose handler never comes, and which so waits for a person.
fn parked(api: &mut Described) -> String {
    let body = json!({ "saga_name": "order", "defer_handlers": true, "context": { "n": 1 },
        "metadata": ["any"], "timeout_seconds": 60, "steps": [
        { "name": "pay out", "handler": "bank", "parameters": { "amount": "10.00" },
          "timeout_seconds": 0.01, "max_retries": 0, "depends_on": [], "pivot": false }] });
    let started = api.ask("POST", "/v1/sagas", &body.to_string());
    assert_eq!(started.status, 202, "{}", started.text());
    let id = text(&started.json(), "saga_id");
    api.ask_until(&format!("/v1/sagas/{id}?wait_seconds=5"), |saga| saga["status"] == "parked");
    id
}

#[test]
fn sagas_answer_as_described() {
    let mut api = described();
    let why = r#"{"reason":"a person said so","actor":"ann"}"#;
    let decide = |api: &mut Described, id: &str, verb: &str, body: &str| -> Reply {
        api.ask("POST", &format!("/v1/sagas/{id}/{verb}"), body)
    };
    let step = "steps/pay%20out";
    let one = parked(&mut api);
    assert_eq!(decide(&mut api, &one, "resume", why).status, 200);
    api.ask_until(&format!("/v1/sagas/{one}"), |saga| saga["status"] == "parked");
    let retry = r#"{"reason":"again","parameters":{"amount":"9.00"}}"#;
    assert_eq!(decide(&mut api, &one, &format!("{step}/retry"), retry).status, 200);
    api.ask_until(&format!("/v1/sagas/{one}"), |saga| saga["status"] == "parked");
    let done = r#"{"reason":"the bank says so","outcome":"done","result":{"id":7}}"#;
    assert_eq!(decide(&mut api, &one, &format!("{step}/resolve"), done).status, 200);
    api.ask_until(&format!("/v1/sagas/{one}?wait_seconds=5"), |saga| saga["status"] == "completed");
    let late = decide(&mut api, &one, "cancel", why);
    assert!([409, 422].contains(&late.status), "{}", late.text());
    let two = parked(&mut api);
    assert_eq!(decide(&mut api, &two, &format!("{step}/skip"), why).status, 200);
    let three = parked(&mut api);
    assert_eq!(decide(&mut api, &three, "cancel", why).status, 200);
    let four = parked(&mut api);
    assert_eq!(decide(&mut api, &four, "abandon", why).status, 200);
    parked(&mut api);
    let bulk = json!({ "decision": "abandon", "filter": { "status": "parked", "saga_name": "order" },
        "reason": "enough", "limit": 10, "dry_run": true });
    let told = api.ask("POST", "/v1/sagas/bulk", &bulk.to_string()).json();
    assert!(!told["would_operate"].as_array().unwrap().is_empty(), "{told}");
    let bulk = json!({ "decision": "cancel", "all": true, "reason": "enough" });
    let told = api.ask("POST", "/v1/sagas/bulk", &bulk.to_string()).json();
    assert!(!told["refused"].as_array().unwrap().is_empty(), "{told}");
    for id in [&one, &two, &three, &four] {
        let history = api.ask("GET", &format!("/v1/sagas/{id}/history?page_size=3"), "").json();
        assert!(!history["items"].as_array().unwrap().is_empty());
    }
    let list = api.ask("GET", "/v1/sagas?saga_name=order&older_than_seconds=0&page_size=2", "");
    assert_eq!(list.json()["items"].as_array().unwrap().len(), 2);
    assert_eq!(api.ask("GET", "/v1/sagas?status=asleep", "").status, 400);
    assert_eq!(decide(&mut api, "none", "cancel", why).status, 404);
    assert_eq!(api.silent(&["sagas"]), BTreeSet::new());
}

#[test]
fn handlers_and_tasks_answer_as_described() {
    let mut api = described();
    let push = r#"{"url":"https://bank.example/pay","secret":"hush","timeout_seconds":5.5}"#;
    assert_eq!(api.ask("PUT", "/v1/handlers/bank", push).json()["kind"], "push");
    assert_eq!(api.ask("PUT", "/v1/handlers/work", r#"{"pull":true}"#).json()["kind"], "pull");
    let wrong = r#"{"pull":true,"secret":"hush"}"#;
    assert_eq!(api.ask("PUT", "/v1/handlers/work", wrong).status, 400);
    let built_in = api.ask("GET", "/v1/handlers?page_size=1", "").json();
    let built_in = text(&built_in["items"][0], "name");
    let taken = api.ask("PUT", &format!("/v1/handlers/{built_in}"), r#"{"pull":true}"#);
    assert!([200, 422].contains(&taken.status), "{}", taken.text());
    api.ask("GET", "/v1/handlers", "");
    assert_eq!(api.ask("DELETE", "/v1/handlers/bank", "").json()["deleted"], true);
    assert_eq!(api.ask("DELETE", "/v1/handlers/bank", "").status, 404);

    let poll =
        r#"{"handlers":["work"],"holder":"w1","wait_seconds":10,"max":1,"lease_seconds":60}"#;
    let body = json!({ "saga_name": "order", "steps": [
        { "name": "reserve", "handler": "work", "parameters": 1 },
        { "name": "charge", "handler": "work", "parameters": null }] });
    assert_eq!(api.ask("POST", "/v1/sagas", &body.to_string()).status, 202);
    let at = |task: &Value, verb: &str| format!("/v1/tasks/{}/{verb}", text(task, "task_id"));
    let reserve = api.ask("POST", "/v1/tasks/poll", poll).json()["tasks"][0].clone();
    let token = json!({ "task_token": reserve["task_token"] }).to_string();
    assert_eq!(api.ask("POST", &at(&reserve, "heartbeat"), &token).status, 200);
    let done = json!({ "task_token": reserve["task_token"], "result": "h1" }).to_string();
    assert_eq!(api.ask("POST", &at(&reserve, "complete"), &done).json()["status"], "completed");
    let charge = api.ask("POST", "/v1/tasks/poll", poll).json()["tasks"][0].clone();
    let failed = json!({ "task_token": charge["task_token"], "error": "declined", "effect": "none",
        "retryable": false });
    assert_eq!(
        api.ask("POST", &at(&charge, "fail"), &failed.to_string()).json()["status"],
        "failed"
    );
    let other = json!({ "task_token": charge["task_token"], "result": 1 }).to_string();
    assert_eq!(api.ask("POST", &at(&charge, "complete"), &other).status, 422);
    let undo = api.ask("POST", "/v1/tasks/poll", poll).json()["tasks"][0].clone();
    assert_eq!(undo["action"], "compensate");
    assert!(undo["undo_key"].is_string(), "{undo}");
    let nobody = "/v1/tasks/00112233445566778899aabbccddeeff/heartbeat";
    assert_eq!(api.ask("POST", nobody, r#"{"task_token":"1"}"#).status, 409);
    assert_eq!(api.silent(&["handlers", "tasks"]), BTreeSet::new());
}

#[test]
fn schedules_answer_as_described() {
    let mut api = described();
    api.server.wait_until_leading();
    api.ask("PUT", "/v1/handlers/report", r#"{"pull":true}"#);
    let wish = json!({ "job_type": "report", "schedule_expression": "@yearly", "handler": "report",
        "time_zone": "Europe/Berlin", "parameters": { "region": "eu" }, "leader_only": false,
        "misfire": "run_all", "misfire_grace_seconds": 5, "jitter_seconds": 1, "overlap": "skip",
        "max_retries": 0, "timeout_seconds": 30 })
    .to_string();
    let path = "/v1/schedules/report";
    assert_eq!(api.ask("PUT", path, &wish).status, 201);
    assert_eq!(api.ask("PUT", path, &wish).status, 200);
    api.ask("GET", "/v1/schedules?status=active&handler=report&page_size=1", "");
    api.ask("GET", &format!("{path}/upcoming?count=3"), "");
    assert_eq!(api.ask("GET", &format!("{path}/upcoming?count=1001"), "").status, 400);
    let preview = "/v1/schedule-preview?schedule_expression=@daily&time_zone=Europe/Berlin&count=2";
    assert_eq!(api.ask("GET", preview, "").status, 200);
    assert_eq!(api.ask("GET", "/v1/schedule-preview?schedule_expression=x", "").status, 400);
    let key = [("Idempotency-Key", "now")];
    assert_eq!(api.ask_with("POST", &format!("{path}/run"), &key, "").status, 202);
    let again = api.ask_with("POST", &format!("{path}/run"), &key, "");
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    let poll = r#"{"handlers":["report"],"holder":"w1","wait_seconds":10}"#;
    let task = api.ask("POST", "/v1/tasks/poll", poll).json()["tasks"][0].clone();
    let open = api.ask_until(path, |schedule| schedule["in_progress"][0]["job_id"].is_string());
    assert_eq!(open["in_progress"].as_array().unwrap().len(), 1);
    let done = json!({ "task_token": task["task_token"], "result": null }).to_string();
    let end = format!("/v1/tasks/{}/complete", text(&task, "task_id"));
    assert_eq!(api.ask("POST", &end, &done).status, 200);
    api.ask_until(path, |schedule| schedule["last_run"].is_object());
    assert_eq!(api.ask("POST", &format!("{path}/pause"), "").json()["status"], "paused");
    let resumed = api.ask("POST", &format!("{path}/resume?missed=catch_up"), "");
    assert_eq!(resumed.json()["status"], "active");
    assert_eq!(api.ask("DELETE", path, "").status, 200);
    assert_eq!(api.ask("GET", path, "").status, 404);
    assert_eq!(api.ask("POST", &format!("{path}/run"), "").status, 404);
    assert_eq!(api.silent(&["schedules"]), BTreeSet::new());
}

#[test]
fn money_answers_as_described() {
    let mut api = described();
    let move_money = |api: &mut Described, path: &str, key: &str, body: Value| -> Reply {
        api.ask_with("POST", path, &[("Idempotency-Key", key)], &body.to_string())
    };
    let deposit = json!({ "user_id": "ann", "amount": "100.00", "currency": "USD" });
    let deposits = "/v1/ledger/deposits";
    assert_eq!(move_money(&mut api, deposits, "d", deposit.clone()).status, 201);
    let again = move_money(&mut api, deposits, "d", deposit.clone());
    assert_eq!((again.status, again.header("idempotency-replayed")), (200, Some("true")));
    let other = json!({ "user_id": 5, "amount": 1, "currency": "USD" });
    assert_eq!(move_money(&mut api, deposits, "d", other.clone()).status, 422);
    assert_eq!(move_money(&mut api, deposits, "e", other).status, 201);
    assert_eq!(api.ask("POST", deposits, &deposit.to_string()).status, 400, "without a key");
    let escrow =
        json!({ "buyer_id": "ann", "seller_id": "bob", "amount": 10.5, "currency": "USD" });
    let mut escrows = Vec::new();
    for key in ["one", "two"] {
        let reply = move_money(&mut api, "/v1/sagas/escrow", key, escrow.clone());
        assert_eq!(reply.status, 202, "{}", reply.text());
        let id = text(&reply.json(), "saga_id");
        api.ask_until(&format!("/v1/sagas/{id}?wait_seconds=5"), |it| it["status"] == "completed");
        escrows.push(id);
    }
    let ends = [("/v1/sagas/release", &escrows[0]), ("/v1/sagas/refund", &escrows[1])];
    for (path, id) in ends {
        let reply = move_money(&mut api, path, "end", json!({ "escrow_id": id }));
        assert_eq!(reply.status, 202, "{}", reply.text());
        assert_eq!(move_money(&mut api, path, "x", json!({ "escrow_id": "none" })).status, 404);
    }
    let cashout =
        json!({ "user_id": "ann", "amount": "1.00", "currency": "USD", "destination": "DE00" });
    assert_eq!(move_money(&mut api, "/v1/sagas/cashout", "c", cashout).status, 202);
    api.ask("GET", "/v1/ledger/accounts/ann?currency=USD", "");
    api.ask("GET", "/v1/ledger/accounts/nobody?currency=BTC", "");
    assert_eq!(api.ask("GET", "/v1/ledger/accounts/ann?currency=usd", "").status, 400);
    let saga = &escrows[0];
    let moved = api.ask("GET", &format!("/v1/ledger/postings?saga_id={saga}&page_size=1"), "");
    assert_eq!(moved.json()["items"].as_array().unwrap().len(), 1);
    let trial = api.ask("GET", "/v1/ledger/trial-balance", "").json();
    assert_eq!(trial["balanced"], true);
    assert_eq!(api.silent(&["money"]), BTreeSet::new());
}
