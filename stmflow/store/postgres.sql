-- The tables of one stmflow database on PostgreSQL, schema version 1.
-- Rows are appended under integer keys; CIDs are columns, never the order of a table. Names that a
-- caller may choose (tag, tenant) are bytes: PostgreSQL's text cannot hold every text.

CREATE SCHEMA stmflow;

CREATE TABLE stmflow.meta (
    one boolean PRIMARY KEY CHECK (one),
    schema integer NOT NULL,
    codec integer NOT NULL,
    id uuid NOT NULL,                  -- which database this is, whatever its address
    seals bigint NOT NULL              -- commits made only to settle an unknown one
);

CREATE SEQUENCE stmflow.job_nr;
CREATE SEQUENCE stmflow.revision_nr INCREMENT 1024;  -- each writer takes numbers by the block
CREATE SEQUENCE stmflow.worker_nr AS integer;
CREATE SEQUENCE stmflow.writer_nr AS integer CYCLE;

-- One row for each open store: how many batches it has committed, for whoever polls.
CREATE TABLE stmflow.writer (
    nr integer PRIMARY KEY,
    batches bigint NOT NULL
) WITH (fillfactor = 20);

-- One row for each commit that wrote a revision: the revision, its states and its other blocks.
CREATE TABLE stmflow.revision (
    nr bigint PRIMARY KEY,
    prev bytea NOT NULL,               -- for each write, the row of its previous revision (0: none)
    open bytea NOT NULL,               -- for each write, its open effects (derived)
    data bytea NOT NULL                -- blocks: the revision, a state for each write, the others
) WITH (toast_tuple_target = 8160);
ALTER TABLE stmflow.revision
    ALTER prev SET STORAGE EXTERNAL, ALTER open SET STORAGE EXTERNAL,
    ALTER data SET STORAGE EXTERNAL;   -- CIDs do not compress

CREATE TABLE stmflow.job (
    nr bigint PRIMARY KEY,
    hash bigint NOT NULL,              -- the first 8 bytes of the id's digest
    id bytea NOT NULL,
    workflow text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    key bytea NOT NULL,
    revision bytea NOT NULL,           -- the head
    head bigint NOT NULL,              -- its row
    place integer NOT NULL,            -- which of that revision's writes
    seq bigint NOT NULL,
    epoch bigint NOT NULL,
    at bigint NOT NULL,
    tag bytea NOT NULL
) WITH (fillfactor = 70);              -- a new head touches no index and stays on its page
CREATE INDEX job_hash ON stmflow.job (hash);
-- A row of an index has room for 2,700 bytes, a key may be longer: the rest is sorted when read.
CREATE INDEX job_key ON stmflow.job (workflow, substring(key FROM 1 FOR 512));

-- The outbox. place = job row * 2^20 + the task's number within its job.
CREATE TABLE stmflow.task (
    place bigint PRIMARY KEY,
    id bytea NOT NULL,
    workflow text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    tag bytea NOT NULL,
    tenant bytea NOT NULL,
    block bytea NOT NULL,
    at bigint NOT NULL,
    due bigint NOT NULL,
    attempt bigint NOT NULL,
    token bigint NOT NULL,
    worker integer,
    parked boolean NOT NULL,
    error bytea,
    outcome bytea
);
CREATE INDEX task_due ON stmflow.task (workflow, version, tag, due)
    WHERE worker IS NULL AND NOT parked;
CREATE INDEX task_tenant ON stmflow.task
    (workflow, version, tag, substring(tenant FROM 1 FOR 512), due)
    WHERE worker IS NULL AND NOT parked;   -- who waits, and the claim of one tenant's tasks
CREATE INDEX task_worker ON stmflow.task (worker) WHERE worker IS NOT NULL;
CREATE INDEX task_parked ON stmflow.task (place) WHERE parked;

-- Unclaimed tasks that wait until the head of one of these jobs moves.
CREATE TABLE stmflow.watch (
    place bigint NOT NULL,             -- of the task
    job bytea NOT NULL,                -- the id of the job, which need not exist
    PRIMARY KEY (place, job)
);
CREATE INDEX watch_job ON stmflow.watch (job);

CREATE TABLE stmflow.timer (
    place bigint PRIMARY KEY,
    id bytea NOT NULL,
    due bigint NOT NULL,
    parked boolean NOT NULL,
    error bytea
);
CREATE INDEX timer_due ON stmflow.timer (due) WHERE NOT parked;
CREATE INDEX timer_parked ON stmflow.timer (place) WHERE parked;

CREATE TABLE stmflow.delivery (
    job bigint NOT NULL,               -- its row; negative: a job that had no row yet
    hash bytea NOT NULL,               -- the first 16 bytes of the SHA-256 of the delivery id
    answer bytea NOT NULL,
    until bigint NOT NULL,
    PRIMARY KEY (job, hash)
);
CREATE INDEX delivery_until ON stmflow.delivery (until);

CREATE TABLE stmflow.worker (
    nr integer PRIMARY KEY,
    until bigint NOT NULL
);

-- The CID index behind the log. Each batch appends one row of its digests; when 65,536 blocks have
-- gathered, the rows that are visible then are merged into one sorted segment and deleted. A batch
-- that commits later with smaller numbers is simply still here: nothing depends on the order.
CREATE TABLE stmflow.unsealed (
    nr bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entries bytea NOT NULL             -- 16 bytes each: 8 of a digest, 8 of its revision row
);
CREATE TABLE stmflow.segment (
    nr bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    size integer NOT NULL,
    entries bytea NOT NULL             -- the same, sorted
);
ALTER TABLE stmflow.segment ALTER entries SET STORAGE EXTERNAL;  -- read in slices

-- Hold these jobs, which come in order of their ids, until the transaction ends: 2 to write, 1 to
-- read, 0 only to look. Then lock the outbox rows that are named (by the place of their job in
-- these arrays, and their number) and look up deliveries. Answers come in that order: a job (0: its
-- number, head and row of its head), a task (1), a timer (2), a delivery (3); last, if so, that some
-- task waits for some job (4).
--
-- A job that is there is held by its row; one that is not by an advisory lock on its hash, after
-- which it is looked for again. The same lock is the queue of a row: who finds it held waits there,
-- first come first served, and who only reads stands in it too, or readers that follow each other
-- closely would keep a writer out for ever. A job held to write gets a number if it is new.
CREATE FUNCTION stmflow.hold(
    hashes bigint[], ids bytea[], modes integer[],
    tasks_of integer[], task_ns bigint[], timers_of integer[], timer_ns bigint[],
    deliveries_of integer[], delivery_hashes bytea[]
) RETURNS TABLE (
    kind integer, nr bigint, id bytea, due bigint, attempt bigint, token bigint, worker integer,
    parked boolean, error bytea, outcome bytea
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    nrs bigint[] := array_fill(NULL::bigint, ARRAY[cardinality(ids)]);
BEGIN
    kind := 0;
    FOR i IN 1 .. cardinality(ids) LOOP
        IF modes[i] = 2 THEN
            SELECT j.nr, j.revision, j.head INTO nr, id, due FROM stmflow.job j
                WHERE j.hash = hashes[i] AND j.id = ids[i] FOR UPDATE SKIP LOCKED;
            IF NOT FOUND THEN
                PERFORM pg_advisory_xact_lock(hashes[i]);
                SELECT j.nr, j.revision, j.head INTO nr, id, due FROM stmflow.job j
                    WHERE j.hash = hashes[i] AND j.id = ids[i] FOR UPDATE;
                IF NOT FOUND THEN
                    nr := nextval('stmflow.job_nr');
                END IF;
            END IF;
        ELSIF modes[i] = 1 THEN
            PERFORM pg_advisory_xact_lock_shared(hashes[i]);
            SELECT j.nr, j.revision, j.head INTO nr, id, due FROM stmflow.job j
                WHERE j.hash = hashes[i] AND j.id = ids[i] FOR SHARE;
        ELSE
            SELECT j.nr, j.revision, j.head INTO nr, id, due FROM stmflow.job j
                WHERE j.hash = hashes[i] AND j.id = ids[i];
        END IF;
        nrs[i] := nr;
        RETURN NEXT;
    END LOOP;
    IF cardinality(tasks_of) > 0 THEN
        RETURN QUERY
            SELECT 1, t.place, t.id, t.due, t.attempt, t.token, t.worker, t.parked, t.error,
                t.outcome
            FROM stmflow.task t WHERE t.place = ANY (ARRAY(
                SELECT nrs[q.job] * 1048576 + q.n FROM unnest(tasks_of, task_ns) q (job, n)))
            ORDER BY t.place FOR UPDATE;
    END IF;
    IF cardinality(timers_of) > 0 THEN
        RETURN QUERY
            SELECT 2, t.place, t.id, t.due, 0::bigint, 0::bigint, NULL::integer, t.parked, t.error,
                NULL::bytea
            FROM stmflow.timer t WHERE t.place = ANY (ARRAY(
                SELECT nrs[q.job] * 1048576 + q.n FROM unnest(timers_of, timer_ns) q (job, n)))
            ORDER BY t.place FOR UPDATE;
    END IF;
    IF cardinality(deliveries_of) > 0 THEN
        RETURN QUERY
            SELECT 3, d.job, d.hash, 0::bigint, 0::bigint, 0::bigint, NULL::integer, false,
                NULL::bytea, d.answer
            FROM unnest(deliveries_of, delivery_hashes) q (job, hash)
            CROSS JOIN LATERAL
                (VALUES (nrs[q.job]), (-1 - (hashes[q.job] & 9223372036854775807))) w (job)
            JOIN stmflow.delivery d ON d.job = w.job AND d.hash = q.hash;
    END IF;
    IF EXISTS (SELECT 1 FROM stmflow.watch) THEN
        kind := 4;
        RETURN NEXT;
    END IF;
END $$;

-- Revision rows that hold a block whose digest begins between these 8-byte bounds.
CREATE FUNCTION stmflow.rows_of(low bytea, high bytea)
RETURNS SETOF bytea LANGUAGE plpgsql STABLE AS $$
DECLARE
    s record;
    first integer;
    last integer;
    middle integer;
    entry bytea;
BEGIN
    FOR s IN SELECT g.nr, g.size FROM stmflow.segment g LOOP
        first := 0;
        last := s.size;
        WHILE first < last LOOP
            middle := (first + last) / 2;
            SELECT substring(g.entries FROM middle * 16 + 1 FOR 8) INTO entry
                FROM stmflow.segment g WHERE g.nr = s.nr;
            IF entry < low THEN first := middle + 1; ELSE last := middle; END IF;
        END LOOP;
        WHILE first < s.size LOOP
            SELECT substring(g.entries FROM first * 16 + 1 FOR 16) INTO entry
                FROM stmflow.segment g WHERE g.nr = s.nr;
            EXIT WHEN substring(entry FROM 1 FOR 8) > high;
            RETURN NEXT substring(entry FROM 9 FOR 8);
            first := first + 1;
        END LOOP;
    END LOOP;
    RETURN QUERY
        SELECT substring(u.entries FROM n * 16 + 9 FOR 8)
        FROM stmflow.unsealed u, generate_series(0, length(u.entries) / 16 - 1) n
        WHERE substring(u.entries FROM n * 16 + 1 FOR 8) BETWEEN low AND high;
END $$;
