//! Reading the audit trail as it stands in a store.

#![allow(dead_code, unreachable_pub)] // every test binary uses its own part of it

use lockbay::store::log::{lines, range};
use lockbay::store::{Key, Kind, MAX_PAGE, Partition, Revision, Store};
use serde_json::Value;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The commit that entered it.
    pub revision: u64,
    pub entity: String,
    pub action: String,
    pub actor: String,
    pub previous: Option<u64>,
    /// All of it.
    pub json: Value,
}

impl Entry {
    pub fn is(&self, entity: &str, action: &str) -> bool {
        self.entity.starts_with(entity) && self.action == action
    }
}

/// All entries behind this revision, in order.
pub async fn entries(store: &dyn Store, after: u64) -> Vec<Entry> {
    let log = Key::new(Partition::FIRST, Kind::new("audit"), "all");
    let mut range = range(&log, Revision::new(after));
    let mut entries = Vec::new();
    loop {
        let page = store.scan(&range, MAX_PAGE).await.unwrap();
        range.after = page.records.last().map(|record| record.key.id.to_string());
        for record in &page.records {
            for line in lines(record).unwrap() {
                let revision = line.revision.number();
                if revision <= after {
                    continue;
                }
                let json: Value = serde_json::from_slice(line.text).unwrap();
                let text = |name: &str| json[name].as_str().map(str::to_owned);
                entries.push(Entry {
                    revision,
                    entity: text("entity").unwrap(),
                    action: text("action").unwrap(),
                    actor: text("actor").unwrap(),
                    previous: text("previous").map(|text| text.parse().unwrap()),
                    json,
                });
            }
        }
        if !page.more {
            return entries;
        }
    }
}
