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

-- Keys in order: small rows, because ids may be hashes, and then each falls on a page of its own.
-- An index entry is a key without a record.
CREATE TABLE key (
    space  INTEGER NOT NULL,
    kind   TEXT    NOT NULL,
    id     TEXT    NOT NULL,
    record INTEGER,
    PRIMARY KEY (space, kind, id)
) STRICT, WITHOUT ROWID;

-- Records in the order in which they came, so that new ones, and changes of them, share pages.
-- The value stands last, so that a guard reads revision and deadline without its pages.
CREATE TABLE record (
    number   INTEGER PRIMARY KEY,
    space    INTEGER NOT NULL,
    kind     TEXT    NOT NULL,
    id       TEXT    NOT NULL,
    revision INTEGER NOT NULL,
    deadline INTEGER,
    value    BLOB    NOT NULL
) STRICT;

-- What is due. Records without a deadline pay nothing for it.
CREATE INDEX record_due ON record (space, kind, deadline) WHERE deadline IS NOT NULL;
