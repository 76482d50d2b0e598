-- From schema version 1 to 2: tasks that wait until the head of a job moves.
CREATE TABLE stmflow.watch (
    place bigint NOT NULL,             -- of the unclaimed task
    job bytea NOT NULL,                -- the id of the job, which need not exist
    PRIMARY KEY (place, job)
);
CREATE INDEX watch_job ON stmflow.watch (job);

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
CREATE OR REPLACE FUNCTION stmflow.hold(
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
