//! Writing the index: commits of the leader, each under its fence and against the head as it was.
//!
//! So whoever led before writes nothing more, whatever of its commits is still on its way, and what
//! the head says of the audit log and of the segments is true of the same moment.

use super::head::{Head, docs_key, head_key, words_key};
use super::segment::{Block, DOCS, Doc, write_docs};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Commit, Deadline, Fence, Guard, Key, Partition, Reply, Revision, Store, Write};

/// What one commit writes beside the head, about.
const COMMIT_BYTES: usize = 1024 * 1024;

/// One turn of the leader at the index.
pub(super) struct Pen<'a> {
    pub(super) store: &'a dyn Store,
    fence: &'a Fence,
    pub(super) head: Head,
    /// Of the record of the head; nothing while there is none.
    revision: Option<Revision>,
    /// The store's time when the turn began.
    pub(super) now: Timestamp,
    /// Written, and not committed yet.
    writes: Vec<Write>,
    bytes: usize,
}

impl<'a> Pen<'a> {
    pub(super) async fn begin(store: &'a dyn Store, fence: &'a Fence) -> Result<Pen<'a>> {
        let read = store.get(&[head_key()]).await?;
        let record = read.records.into_iter().flatten().next();
        let head = record.as_ref().map(|record| Head::decode(&record.value)).transpose()?;
        Ok(Pen {
            store,
            fence,
            head: head.unwrap_or_default(),
            revision: record.map(|record| record.revision),
            now: read.now,
            writes: Vec::new(),
            bytes: 0,
        })
    }

    /// Adds a block to a segment.
    pub(super) fn block(&mut self, segment: u64, block: Block) {
        self.bytes += block.bytes.len();
        self.put(words_key(segment, &block.name), block.bytes);
    }

    /// Adds a piece of a segment's table of records, whose first one has this number.
    pub(super) fn docs(&mut self, segment: u64, first: u32, docs: &[Doc]) {
        debug_assert!(
            (first as usize).is_multiple_of(DOCS) && docs.len() <= DOCS && !docs.is_empty()
        );
        let bytes = write_docs(docs);
        self.bytes += bytes.len();
        self.put(docs_key(segment, first), bytes);
    }

    fn put(&mut self, key: Key, value: Vec<u8>) {
        self.writes.push(Write::Put { key, value, deadline: Deadline::Never });
    }

    pub(super) fn delete(&mut self, key: Key) {
        self.writes.push(Write::Delete { key });
    }

    /// Whether what is written is more than one commit should take.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= COMMIT_BYTES
    }

    /// Commits what is written, and leaves the head as it is.
    pub(super) async fn flush(&mut self) -> Result<()> {
        if self.writes.is_empty() {
            return Ok(());
        }
        self.commit().await.map(drop)
    }

    /// Commits what is written together with another head.
    pub(super) async fn turn_to(&mut self, head: Head) -> Result<()> {
        let value = head.encode()?;
        self.put(head_key(), value);
        self.revision = Some(self.commit().await?);
        self.head = head;
        Ok(())
    }

    async fn commit(&mut self) -> Result<Revision> {
        let mut guards = vec![Guard::Held(self.fence.clone())];
        guards.push(match self.revision {
            Some(revision) => Guard::RevisionIs(head_key(), revision),
            None => Guard::Absent(head_key()),
        });
        let writes = std::mem::take(&mut self.writes);
        self.bytes = 0;
        let commit = Commit::new(Partition::FIRST, guards, writes, Vec::new())?;
        match self.store.commit(&commit).await? {
            Reply::Committed { revision, .. } => Ok(revision),
            Reply::Conflict { .. } => Err(Error::new(
                ErrorKind::Fenced,
                "another instance leads and keeps the search index",
            )),
        }
    }
}
