//! One decision about many: what stands behind `lockbay job bulk` and `--all-matching` of sagas.
//!
//! Many are decided upon a page at a time, so that one request stays short. What came of the pages
//! before one that fails is told all the same. What a job or a saga is, its command knows.

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::client::{Client, Failure};
use super::{Ended, output};

/// How many one request decides upon.
const AT_ONCE: usize = 100;

/// A decision, and about which.
pub(super) struct Bulk<'a> {
    pub(super) decision: &'a str,
    /// `job` or `saga`.
    pub(super) noun: &'a str,
    /// Where it is said.
    pub(super) path: &'a [&'a str],
    /// The filter, the reason, and who says so.
    pub(super) body: Map<String, Value>,
}

/// What is done about those that match.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Look,
    Decide,
}

/// What came of it, as the server tells it page by page.
#[derive(Default, Deserialize)]
struct Outcome {
    matched: usize,
    #[serde(default)]
    would_operate: Vec<Value>,
    operated: Vec<Value>,
    refused: Vec<Value>,
    next_page_token: Option<String>,
}

impl Bulk<'_> {
    /// Tells which are meant, and decides nothing.
    pub(super) async fn look(&self, client: &Client) -> Result<Ended, Failure> {
        let (all, failure) = self.all_pages(client, Mode::Look).await;
        self.show(client, &all, failure.is_some());
        failure.map_or(Ok(Ended::Done), Err)
    }

    /// Decides, after a question on a terminal.
    pub(super) async fn decide(&self, client: &Client) -> Result<Ended, Failure> {
        let first = self.page(client, Mode::Look, None).await?;
        let more = if first.next_page_token.is_some() { " or more" } else { "" };
        let question = format!("{} {}{more} {}s?", self.decision, first.matched, self.noun);
        if !client.confirm(&question) {
            output::talk("nothing was done");
            return Ok(Ended::No);
        }
        let (all, failure) = self.all_pages(client, Mode::Decide).await;
        self.show(client, &all, failure.is_some());
        if let Some(failure) = failure {
            return Err(failure);
        }
        Ok(if all.refused.is_empty() { Ended::Done } else { Ended::No })
    }

    /// Goes on page by page until there is no more, or one fails.
    async fn all_pages(&self, client: &Client, mode: Mode) -> (Outcome, Option<Failure>) {
        let mut all = Outcome::default();
        let mut next = None;
        loop {
            let page = match self.page(client, mode, next).await {
                Ok(page) => page,
                Err(failure) => return (all, Some(failure)),
            };
            all.matched += page.matched;
            all.would_operate.extend(page.would_operate);
            all.operated.extend(page.operated);
            all.refused.extend(page.refused);
            next = page.next_page_token;
            if next.is_none() {
                return (all, None);
            }
            if mode == Mode::Decide {
                output::talk(&format!("{} so far", all.matched));
            }
        }
    }

    async fn page(
        &self,
        client: &Client,
        mode: Mode,
        page_token: Option<String>,
    ) -> Result<Outcome, Failure> {
        let mut body = self.body.clone();
        body.insert("decision".into(), json!(self.decision));
        body.insert("limit".into(), json!(AT_ONCE));
        body.insert("page_token".into(), json!(page_token));
        body.insert("dry_run".into(), json!(mode == Mode::Look));
        let url = client.address(self.path, &[]);
        let what = format!("{} all {}s that match", self.decision, self.noun);
        client.change(&what, Method::POST, url, Some(Value::Object(body))).await?.read()
    }

    fn show(&self, client: &Client, all: &Outcome, is_cut_off: bool) {
        if is_cut_off && all.matched == 0 {
            return;
        }
        if client.json {
            let mut document = json!({
                "matched": all.matched,
                "operated": all.operated,
                "refused": all.refused,
            });
            if !all.would_operate.is_empty() {
                document["would_operate"] = json!(all.would_operate);
            }
            output::data(&document.to_string());
            return;
        }
        if all.matched == 0 {
            output::talk(&format!("no {} matches", self.noun));
            return;
        }
        let id = format!("{}_id", self.noun);
        let text = |one: &Value, name: &str| one[name].as_str().unwrap_or_default().to_owned();
        let stands = |one: &Value| vec![text(one, &id), text(one, "status"), String::new()];
        let refused = |one: &Value| vec![text(one, &id), "refused".into(), text(one, "detail")];
        let rows = all.would_operate.iter().chain(&all.operated).map(stands);
        let rows = rows.chain(all.refused.iter().map(refused)).collect();
        output::table(&[&format!("{} ID", self.noun.to_uppercase()), "STATUS", "DETAIL"], rows);
    }
}
