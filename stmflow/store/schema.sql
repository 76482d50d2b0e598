-- The tables of one stmflow database, schema version 2.
-- Rows are appended under integer keys; CIDs are columns, never the order of a table.

CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    schema INTEGER NOT NULL,
    codec INTEGER NOT NULL,
    workers INTEGER NOT NULL,          -- the number given to the last worker
    seals INTEGER NOT NULL             -- commits made only to settle an unknown one
) STRICT;

-- One row for each commit that wrote a revision: the revision, its states and its other blocks.
CREATE TABLE revision (
    row INTEGER PRIMARY KEY,
    digests BLOB NOT NULL,             -- the first 8 bytes of each block's digest, in order
    prev BLOB NOT NULL,                -- for each write, the row of its previous revision (0: none)
    open BLOB NOT NULL,                -- for each write, its open effects (derived)
    data BLOB NOT NULL                 -- blocks: the revision, a state for each write, the others
) STRICT;

CREATE TABLE job (
    row INTEGER PRIMARY KEY,
    hash INTEGER NOT NULL,             -- the first 8 bytes of the id's digest
    id BLOB NOT NULL,
    workflow TEXT NOT NULL,
    version INTEGER NOT NULL,
    key BLOB NOT NULL,
    revision BLOB NOT NULL,            -- the head
    head INTEGER NOT NULL,             -- its row
    place INTEGER NOT NULL,            -- which of that revision's writes
    seq INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    at INTEGER NOT NULL,
    tag TEXT NOT NULL
) STRICT;
CREATE INDEX job_hash ON job (hash);
CREATE INDEX job_key ON job (workflow, key);

-- The outbox. place = job row * 2^20 + the task's number within its job.
CREATE TABLE task (
    place INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    workflow TEXT NOT NULL,
    version INTEGER NOT NULL,
    tag TEXT NOT NULL,
    tenant TEXT NOT NULL,
    block BLOB NOT NULL,
    at INTEGER NOT NULL,
    due INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    token INTEGER NOT NULL,
    worker INTEGER,
    parked INTEGER NOT NULL,
    error BLOB,
    outcome BLOB
) STRICT;
CREATE INDEX task_due ON task (workflow, version, tag, due) WHERE worker IS NULL AND parked = 0;
CREATE INDEX task_tenant ON task (workflow, version, tag, tenant, due)
    WHERE worker IS NULL AND parked = 0;  -- who waits, and the claim of one tenant's tasks
CREATE INDEX task_parked ON task (place) WHERE parked = 1;

-- Unclaimed tasks that wait until the head of one of these jobs moves.
CREATE TABLE watch (
    place INTEGER NOT NULL,            -- of the task
    job BLOB NOT NULL,                 -- the id of the job, which need not exist
    PRIMARY KEY (place, job)
) STRICT, WITHOUT ROWID;
CREATE INDEX watch_job ON watch (job);

CREATE TABLE timer (
    place INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    due INTEGER NOT NULL,
    parked INTEGER NOT NULL,
    error BLOB
) STRICT;
CREATE INDEX timer_due ON timer (due) WHERE parked = 0;
CREATE INDEX timer_parked ON timer (place) WHERE parked = 1;

CREATE TABLE delivery (
    job INTEGER NOT NULL,              -- its row; negative: a job that had no row yet
    hash BLOB NOT NULL,                -- the first 16 bytes of the SHA-256 of the delivery id
    answer BLOB NOT NULL,
    until INTEGER NOT NULL,
    PRIMARY KEY (job, hash)
) STRICT, WITHOUT ROWID;
CREATE INDEX delivery_until ON delivery (until);

CREATE TABLE worker (
    id INTEGER PRIMARY KEY,
    until INTEGER NOT NULL
) STRICT;

-- The CID index behind the log: sorted digest prefixes of 65,536 blocks or more, and their rows.
CREATE TABLE segment (
    row INTEGER PRIMARY KEY,
    first INTEGER NOT NULL,            -- revision rows first..last
    last INTEGER NOT NULL,
    digests BLOB NOT NULL,             -- 8 bytes each, sorted
    offsets BLOB NOT NULL              -- 4 bytes each: revision row - first
) STRICT;
