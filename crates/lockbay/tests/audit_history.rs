//! Reading a trail whose beginning was let go of, and letting go of one that is damaged there.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "support/sealed.rs"]
mod sealed;

use std::sync::Arc;
use std::time::Duration;

use lockbay::LockBay;
use lockbay::audit::{AuditQuery, Thoroughness};
use lockbay::config::{Config, Span};
use lockbay::store::{Commit, Order, Partition, Reply, Store, Write};
use sealed::{CHECKPOINTS, ENTRIES, append, end, entry, lead, log, quiet, records, sealed};

#[tokio::test]
async fn a_history_that_leads_to_what_was_let_go_of_ends_there() {
    let (clock, memory) = sealed(10, 5, 1).await;
    let store = memory.client();
    let (mut previous, mut first) = (None, None);
    for n in 0..6 {
        let link = previous.map(|it| format!(",\"previous\":\"{it}\"")).unwrap_or_default();
        let line = format!("{{\"entity\":\"job/x\",\"action\":\"a{n}\",\"actor\":\"w\"{link}}}");
        let write = Write::Append { key: log(), line: line.into_bytes() };
        let commit = Commit::new(Partition::FIRST, vec![], vec![entry(n), write], vec![]).unwrap();
        if let Reply::Committed { revision, .. } = store.commit(&commit).await.unwrap() {
            previous = Some(revision);
            first.get_or_insert(revision);
        }
    }
    let mut changed = memory.snapshot();
    for record in records(&changed, ENTRIES) {
        if Some(record.revision) <= first {
            changed.remove(&record.key);
        }
    }
    memory.restore(&changed);
    let bay = LockBay::with_store(quiet(), Arc::new(memory.client()), clock.clone());
    let (items, next) = bay.audit().history("job/x", None, 30).await.unwrap();
    assert_eq!((items.len(), next), (5, None));
    // A page that ends just there has no next one.
    let (items, next) = bay.audit().history("job/x", None, 5).await.unwrap();
    assert_eq!((items.len(), next), (5, None));
    let gone = bay.audit().history("job/x", first, 5).await.unwrap_err();
    assert_eq!(gone.kind(), lockbay::ErrorKind::NotFound);
}

#[tokio::test]
async fn damage_at_the_beginning_does_not_keep_the_rest_for_ever() {
    let (clock, memory) = sealed(100, 5, 10).await;
    let mut changed = memory.snapshot();
    let mut first = records(&changed, CHECKPOINTS).remove(0);
    first.value.pop();
    changed.put(first);
    memory.restore(&changed);
    let seconds = |n| Span(Duration::from_secs(n));
    let config = Config { audit_retention: seconds(60), ..quiet() };
    let bay = LockBay::with_store(config, Arc::new(memory.client()), clock.clone());
    clock.advance(Duration::from_secs(100));
    lead(&bay, &clock).await;
    append(&memory.client(), 100, 10, 5).await;
    bay.audit().seal_now().await.unwrap();
    let said = bay.audit().verify(Thoroughness::Log).await.unwrap();
    assert_eq!(said.trimmed, Some(10), "{said:?}");
    // Until they are deleted, those before are shown, and no other checkpoint is said to seal them.
    let query = AuditQuery { order: Order::Forwards, ..AuditQuery::default() };
    let items = bay.audit().entries(&query, 1_000).await.unwrap().items;
    assert!(items[..10].iter().all(|entry| entry.sealed_by.is_none()), "{:?}", items[0]);
    for (n, entry) in items[10..100].iter().enumerate() {
        let right = n as u64 / 10 + 2;
        assert!(entry.sealed_by.is_none_or(|by| by == right), "{entry:?}");
    }
    assert!(items[100..110].iter().all(|entry| entry.sealed_by == Some(11)));
    end(&bay, &clock).await;
}
