//! What of a job or a saga can be found: names, keys, parameters, context, metadata, errors.
//!
//! The same values are read when a record is indexed and when it is held against a query, so what
//! the index led to and what is there cannot be told differently. Masked names are passed over in
//! both. Results are not read: they are what an effect returned, and may hold what nobody should
//! find by trying.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::query::Query;
use super::segment::{Doc, DocKind};
use super::words::{each_value, each_word, is_indexed};
use crate::hex::hex;
use crate::job::JobInfo;
use crate::json::Json;
use crate::mask;
use crate::saga::SagaInfo;

/// The most words of one record, in its order: what stands behind them is not found.
const MAX_WORDS: usize = 512;
/// The names of errors and of reasons.
const ERROR: &str = "error";
const REASON: &str = "reason";
/// The version of what is read of a record and of what a word is, with which segments are marked.
const RULE: u32 = 2;

/// Who is called with each value: its name, the names within it, and the value.
type Call<'a> = &'a mut dyn FnMut(&[&str], &[String], &str);

/// What is read of a record.
pub(super) trait Document {
    /// As the index knows it.
    fn doc(&self) -> Doc;
    /// What it is found by as a whole, beside its words.
    fn facets(&self) -> Vec<String>;
    /// Calls back with each value.
    fn each(&self, masked: &[String], call: Call<'_>);

    /// Its words for the index.
    fn words(&self, masked: &[String]) -> BTreeSet<String> {
        let mut words = BTreeSet::new();
        self.each(masked, &mut |_, _, value| {
            each_word(value, |word| {
                if words.len() < MAX_WORDS && is_indexed(word) && !words.contains(word) {
                    words.insert(word.to_owned());
                }
            });
        });
        words.extend(self.facets());
        words
    }

    /// Where it matches a query, if it does.
    fn matched(&self, query: &Query, masked: &[String]) -> Option<Vec<String>> {
        let mut trial = query.trial();
        self.each(masked, &mut |name, path, value| trial.look(name, path, value));
        trial.verdict()
    }
}

/// A word that no text has, for records with this property.
pub(super) fn facet(name: &str, value: &str) -> String {
    let digest: [u8; 32] = Sha256::digest(value.as_bytes()).into();
    let digits = hex(digest.get(..8).unwrap_or_default());
    format!(":{name}:{digits}")
}

/// By which rule records are read now; a segment that was written by another one is written anew.
pub(super) fn rule(masked: &[String]) -> String {
    let names: BTreeSet<String> = masked.iter().map(|name| name.to_ascii_lowercase()).collect();
    let names = names.into_iter().collect::<Vec<_>>().join(",");
    let digest: [u8; 32] = Sha256::digest(format!("{RULE} {names}")).into();
    hex(digest.get(..8).unwrap_or_default())
}

/// The facet of all records of a kind.
pub(super) fn facet_of(kind: DocKind) -> String {
    match kind {
        DocKind::Job => ":job".into(),
        DocKind::Saga => ":saga".into(),
    }
}

fn within(name: &[&str], json: &Json, masked: &[String], call: Call<'_>) {
    each_value(json.text(), masked, &mut |path, value| call(name, path, value));
}

impl Document for JobInfo {
    fn doc(&self) -> Doc {
        let created_us = self.created_at.as_micros();
        Doc { created_us, kind: DocKind::Job, id: self.job_id.clone() }
    }

    fn facets(&self) -> Vec<String> {
        let (of_type, of_key) = (facet("type", &self.job_type), facet("key", &self.job_key));
        vec![facet_of(DocKind::Job), of_type, of_key]
    }

    fn each(&self, masked: &[String], call: Call<'_>) {
        let call: Call<'_> = &mut |name, path, value| unmasked(masked, call, name, path, value);
        call(&["job_id"], &[], &self.job_id);
        call(&["job_type"], &[], &self.job_type);
        call(&["job_key"], &[], &self.job_key);
        within(&["parameters"], &self.parameters, masked, call);
        if let Some(error) = &self.error {
            call(&[ERROR], &[], error);
        }
    }
}

impl Document for SagaInfo {
    fn doc(&self) -> Doc {
        let created_us = self.created_at.as_micros();
        Doc { created_us, kind: DocKind::Saga, id: self.saga_id.clone() }
    }

    fn facets(&self) -> Vec<String> {
        let mut facets = vec![facet_of(DocKind::Saga), facet("name", &self.saga_name)];
        facets.extend(self.key().map(|key| facet("key", &key)));
        facets
    }

    fn each(&self, masked: &[String], call: Call<'_>) {
        let call: Call<'_> = &mut |name, path, value| unmasked(masked, call, name, path, value);
        call(&["saga_id"], &[], &self.saga_id);
        call(&["saga_name"], &[], &self.saga_name);
        within(&["metadata"], &self.metadata, masked, call);
        within(&["context"], &self.context, masked, call);
        for step in &self.steps {
            call(&["steps", &step.name, "name"], &[], &step.name);
            call(&["steps", &step.name, "handler"], &[], &step.handler);
            within(&["steps", &step.name, "parameters"], &step.parameters, masked, call);
            if let Some(error) = &step.error {
                call(&["steps", &step.name, ERROR], &[], error);
            }
        }
        if let Some(reason) = &self.reason {
            call(&[REASON], &[], reason);
        }
    }
}

/// Calls on, unless the value is masked as a whole. The name of a step is not a name of JSON.
fn unmasked(masked: &[String], call: Call<'_>, name: &[&str], path: &[String], value: &str) {
    let named = |name: Option<&&str>| name.is_some_and(|name| mask::covers(masked, name));
    // A reason may hold an error.
    let holds_error = name.last() == Some(&REASON) && mask::covers(masked, ERROR);
    if !named(name.first()) && !named(name.last()) && !holds_error {
        call(name, path, value);
    }
}
