//! Holds values against schemas of the OpenAPI document, more strictly than clients do.
//!
//! It reads the part of JSON Schema that the document uses and refuses the rest, so that no keyword
//! is passed over. An object with described members has no others: a client may not mind what it
//! is not told of, but a description with members missing is wrong.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::{Map, Value};

/// Keywords that say something to people alone, or refine what is refined elsewhere.
const SAID: &[&str] = &["title", "description", "examples", "example", "default", "deprecated"];

/// What is wrong with a value, if anything is.
pub(crate) fn faults(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut check = Check { document, faults: Vec::new() };
    let known = check.value(schema, value, "");
    check.leftover(value, &known, "", schema);
    check.faults
}

/// What a reference stands for.
pub(crate) fn resolve<'d>(document: &'d Value, thing: &'d Value) -> &'d Value {
    let Some(place) = thing.get("$ref").and_then(Value::as_str) else { return thing };
    let pointer = place.strip_prefix('#').expect("references stay within the document");
    document.pointer(pointer).unwrap_or_else(|| panic!("there is nothing at {place}"))
}

struct Check<'d> {
    document: &'d Value,
    faults: Vec<String>,
}

/// The members of an object that are described, if they are.
type Known = Option<BTreeSet<String>>;

impl<'d> Check<'d> {
    /// Holds a value against a schema, and says which of its members the schema knows.
    fn value(&mut self, schema: &'d Value, value: &Value, at: &str) -> Known {
        let Some(keywords) = schema.as_object() else {
            if schema == &Value::Bool(false) {
                self.faults.push(format!("{at}: nothing fits here"));
            }
            return None;
        };
        let mut known: Known = None;
        let mut learn = |more: Known| {
            if let Some(more) = more {
                known.get_or_insert_default().extend(more);
            }
        };
        for (keyword, operand) in keywords {
            match keyword.as_str() {
                "$ref" => learn(self.value(resolve(self.document, schema), value, at)),
                "allOf" => {
                    for part in operand.as_array().expect("schemas") {
                        learn(self.value(part, value, at));
                    }
                }
                "oneOf" | "anyOf" => learn(self.one_of(keyword, operand, value, at)),
                "properties" => learn(self.properties(operand, value, at)),
                "items" => self.items(operand, value, at),
                "additionalProperties" => self.additional(keywords, operand, value, at),
                "propertyNames" => self.names(operand, value, at),
                _ => self.plain(keyword, operand, value, at),
            }
        }
        known
    }

    /// Keywords without schemas in them.
    fn plain(&mut self, keyword: &str, operand: &Value, value: &Value, at: &str) {
        let number = || operand.as_f64().expect("a number");
        let length = |text: &str| text.chars().count() as f64;
        let fits = match (keyword, value) {
            ("type", _) => is_of_type(operand, value),
            ("enum", _) => operand.as_array().expect("values").contains(value),
            ("required", Value::Object(members)) => {
                let missing = |name: &&Value| !members.contains_key(name.as_str().expect("a name"));
                operand.as_array().expect("names").iter().find(missing).is_none()
            }
            ("pattern", Value::String(text)) => pattern(operand).is_match(text),
            ("minLength", Value::String(text)) => length(text) >= number(),
            ("maxLength", Value::String(text)) => length(text) <= number(),
            ("minimum", Value::Number(value)) => value.as_f64() >= Some(number()),
            ("maximum", Value::Number(value)) => value.as_f64() <= Some(number()),
            ("exclusiveMinimum", Value::Number(value)) => value.as_f64() > Some(number()),
            ("exclusiveMaximum", Value::Number(value)) => value.as_f64() < Some(number()),
            ("minItems", Value::Array(items)) => items.len() as f64 >= number(),
            ("maxItems", Value::Array(items)) => items.len() as f64 <= number(),
            ("format", Value::String(text)) if operand == "date-time" => is_a_moment(text),
            (
                "required" | "pattern" | "minLength" | "maxLength" | "minimum" | "maximum"
                | "exclusiveMinimum" | "exclusiveMaximum" | "minItems" | "maxItems" | "format",
                _,
            ) => true,
            (said, _) if SAID.contains(&said) || said.starts_with("x-") => true,
            (unknown, _) => panic!("{at}: the keyword {unknown} is not known here"),
        };
        if !fits {
            self.faults.push(format!("{at}: {value} does not fit {keyword} {operand}"));
        }
    }

    fn names(&mut self, operand: &'d Value, value: &Value, at: &str) {
        for name in value.as_object().into_iter().flat_map(Map::keys) {
            self.value(operand, &Value::from(name.as_str()), at);
        }
    }

    fn one_of(&mut self, keyword: &str, operand: &'d Value, value: &Value, at: &str) -> Known {
        let mut fitting = Vec::new();
        let mut reasons = Vec::new();
        for part in operand.as_array().expect("schemas") {
            let mut inner = Check { document: self.document, faults: Vec::new() };
            let known = inner.value(part, value, at);
            if inner.faults.is_empty() {
                fitting.push(known);
            } else {
                reasons.extend(inner.faults);
            }
        }
        let count = fitting.len();
        if count == 0 {
            self.faults.push(format!("{at}: none fits: {reasons:?}"));
        } else if count > 1 && keyword == "oneOf" {
            self.faults.push(format!("{at}: {count} of them fit where one does"));
        }
        fitting.into_iter().flatten().reduce(|all, more| all.union(&more).cloned().collect())
    }

    fn properties(&mut self, operand: &'d Value, value: &Value, at: &str) -> Known {
        let described = operand.as_object().expect("members");
        let members = value.as_object()?;
        for (name, schema) in described {
            if let Some(member) = members.get(name) {
                self.whole(schema, member, &format!("{at}/{name}"));
            }
        }
        Some(described.keys().cloned().collect())
    }

    fn items(&mut self, operand: &'d Value, value: &Value, at: &str) {
        for (place, item) in value.as_array().into_iter().flatten().enumerate() {
            self.whole(operand, item, &format!("{at}/{place}"));
        }
    }

    fn additional(
        &mut self,
        keywords: &Map<String, Value>,
        operand: &'d Value,
        value: &Value,
        at: &str,
    ) {
        let described = keywords.get("properties").and_then(Value::as_object);
        for (name, member) in value.as_object().into_iter().flatten() {
            if described.is_none_or(|described| !described.contains_key(name)) {
                self.whole(operand, member, &format!("{at}/{name}"));
            }
        }
    }

    /// A value that no other schema describes besides.
    fn whole(&mut self, schema: &'d Value, value: &Value, at: &str) {
        let known = self.value(schema, value, at);
        self.leftover(value, &known, at, schema);
    }

    fn leftover(&mut self, value: &Value, known: &Known, at: &str, schema: &Value) {
        let (Some(members), Some(known)) = (value.as_object(), known) else { return };
        let open = resolve(self.document, schema).get("additionalProperties");
        if open.is_some_and(|open| open != &Value::Bool(false)) {
            return;
        }
        for name in members.keys().filter(|name| !known.contains(*name)) {
            self.faults.push(format!("{at}/{name} is not described"));
        }
    }
}

fn is_of_type(operand: &Value, value: &Value) -> bool {
    let is = |name: &Value| match name.as_str().expect("a type") {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("there is no type {other}"),
    };
    operand.as_array().map_or_else(|| is(operand), |types| types.iter().any(is))
}

/// Regular expressions here have no tables of Unicode classes.
fn pattern(operand: &Value) -> Regex {
    let text = operand.as_str().expect("a pattern").replace(r"\s", " ");
    Regex::new(&text).unwrap_or_else(|error| panic!("{error}"))
}

fn is_a_moment(text: &str) -> bool {
    text.parse::<lockbay::clock::Timestamp>().is_ok()
}
