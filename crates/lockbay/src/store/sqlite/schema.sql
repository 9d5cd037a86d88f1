-- The tables of a LockBay file, schema version 1 (PRAGMA user_version).
--
-- One row per namespace and partition: its identity, its last commit, and whether effects halt.
CREATE TABLE space (
    id         INTEGER PRIMARY KEY,
    namespace  TEXT    NOT NULL,
    partition  INTEGER NOT NULL,
    generation TEXT    NOT NULL,
    revision   INTEGER NOT NULL,
    accepted   INTEGER NOT NULL,
    halted     TEXT,
    UNIQUE (namespace, partition)
) STRICT;

-- Records, and index entries: those have no value, no deadline and revision 0.
-- The value stands last, so that a guard reads revision and deadline without its pages.
CREATE TABLE record (
    space    INTEGER NOT NULL,
    kind     TEXT    NOT NULL,
    id       TEXT    NOT NULL,
    revision INTEGER NOT NULL,
    deadline INTEGER,
    value    BLOB,
    PRIMARY KEY (space, kind, id)
) STRICT, WITHOUT ROWID;

-- What is due. Records without a deadline pay nothing for it.
CREATE INDEX record_due ON record (space, kind, deadline) WHERE deadline IS NOT NULL;
