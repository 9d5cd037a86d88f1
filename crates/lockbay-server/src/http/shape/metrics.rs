//! The groups of the metrics document, described by the table that they are made from.

use lockbay::metrics::{TABLE, Type as Behaviour};
use utoipa::PartialSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};

use super::history::HistogramSummary;

/// What is in a group besides the metrics of the table.
const BESIDES: &[(&str, &str, Type)] = &[
    ("system_metrics", "process_memory_bytes", Type::Number),
    ("system_metrics", "requests_in_flight", Type::Integer),
    ("system_metrics", "max_in_flight", Type::Integer),
    ("saga_metrics", "running_sagas", Type::Number),
    ("saga_metrics", "registered_handlers", Type::Integer),
    ("state_manager_metrics", "cached_entries", Type::Integer),
    ("state_manager_metrics", "cached_bytes", Type::Integer),
];

/// The group of this name, whose members are all there.
fn group(name: &str) -> ObjectBuilder {
    let mut group = ObjectBuilder::new().schema_type(Type::Object);
    let mut known = Vec::new();
    for row in TABLE {
        let member = row.path.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'));
        let Some(member) = member else { continue };
        known.push(member);
        group = match row.kind {
            Behaviour::Histogram => group.property(member, HistogramSummary::schema()),
            Behaviour::Counter | Behaviour::Gauge => {
                let number = ObjectBuilder::new().schema_type(Type::Number);
                group.property(member, number.description(Some(row.help)))
            }
        };
        group = group.required(member);
    }
    for (_, member, kind) in BESIDES.iter().filter(|(of, _, _)| *of == name) {
        if !known.contains(member) {
            group = group.property(*member, ObjectBuilder::new().schema_type(kind.clone()));
            group = group.required(*member);
        }
    }
    group
}

pub(in crate::http) fn system() -> RefOr<Schema> {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let store = ObjectBuilder::new().schema_type(Type::Object);
    let store = ["backend", "durability", "version"]
        .into_iter()
        .fold(store, |store, member| store.property(member, text()).required(member));
    let maybe = ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::Number, Type::Null]));
    let system = group("system_metrics").property("store", store).required("store");
    system.property("store_round_trip_ms", maybe).required("store_round_trip_ms").into()
}

pub(in crate::http) fn jobs() -> RefOr<Schema> {
    group("job_idempotency_metrics").into()
}

pub(in crate::http) fn sagas() -> RefOr<Schema> {
    group("saga_metrics").into()
}

pub(in crate::http) fn cleanup() -> RefOr<Schema> {
    group("cleanup_metrics").into()
}

pub(in crate::http) fn state() -> RefOr<Schema> {
    group("state_manager_metrics").into()
}

pub(in crate::http) fn schedules() -> RefOr<Schema> {
    group("schedule_metrics").into()
}

pub(in crate::http) fn search() -> RefOr<Schema> {
    group("search_metrics").into()
}

pub(in crate::http) fn audit() -> RefOr<Schema> {
    group("audit_metrics").into()
}
