"""The statements of one batch. Columns come as arrays: a statement is the same for any number."""

from __future__ import annotations

HOLD = (
    "SELECT * FROM stmflow.hold($1::bigint[], $2::bytea[], $3::integer[], $4::integer[],"
    " $5::bigint[], $6::integer[], $7::bigint[], $8::integer[], $9::bytea[])"
)
PUT = """
WITH revisions AS (
    INSERT INTO stmflow.revision (nr, prev, open, data)
    SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::bytea[])
), entries AS (
    INSERT INTO stmflow.unsealed (entries) SELECT $5::bytea WHERE length($5::bytea) > 0
), created AS (
    INSERT INTO stmflow.job
        (nr, version, revision, head, place, seq, epoch, at, tag, hash, id, workflow, key)
    SELECT * FROM unnest($6::bigint[], $7::bigint[], $8::bytea[], $9::bigint[], $10::integer[],
        $11::bigint[], $12::bigint[], $13::bigint[], $14::bytea[], $15::bigint[], $16::bytea[],
        $17::text[], $18::bytea[])
), moved AS (
    UPDATE stmflow.job j SET version = q.version, revision = q.revision, head = q.head,
        place = q.place, seq = q.seq, epoch = q.epoch, at = q.at, tag = q.tag
    FROM unnest($19::bigint[], $20::bigint[], $21::bytea[], $22::bigint[], $23::integer[],
        $24::bigint[], $25::bigint[], $26::bigint[], $27::bytea[])
        q (nr, version, revision, head, place, seq, epoch, at, tag)
    WHERE j.nr = q.nr
), no_tasks AS (
    DELETE FROM stmflow.task WHERE place = ANY($28::bigint[])
), no_timers AS (
    DELETE FROM stmflow.timer WHERE place = ANY($29::bigint[])
), tasks AS (
    INSERT INTO stmflow.task AS t
        (place, id, workflow, version, tag, tenant, block, at,
         due, attempt, token, worker, parked, error, outcome)
    SELECT * FROM unnest($30::bigint[], $31::bytea[], $32::text[], $33::bigint[], $34::bytea[],
        $35::bytea[], $36::bytea[], $37::bigint[], $38::bigint[], $39::bigint[], $40::bigint[],
        $41::integer[], $42::boolean[], $43::bytea[], $44::bytea[])
    ON CONFLICT (place) DO UPDATE SET id = excluded.id, workflow = excluded.workflow,
        version = excluded.version, tag = excluded.tag, tenant = excluded.tenant,
        block = excluded.block, at = excluded.at, due = excluded.due, attempt = excluded.attempt,
        token = excluded.token, worker = excluded.worker, parked = excluded.parked,
        error = excluded.error, outcome = excluded.outcome
), timers AS (
    INSERT INTO stmflow.timer (place, id, due, parked, error)
    SELECT * FROM unnest($45::bigint[], $46::bytea[], $47::bigint[], $48::boolean[], $49::bytea[])
    ON CONFLICT (place) DO UPDATE SET id = excluded.id, due = excluded.due,
        parked = excluded.parked, error = excluded.error
), given_back AS (
    UPDATE stmflow.task t SET due = q.due, attempt = q.attempt, token = q.token, worker = q.worker,
        parked = q.parked, error = q.error, outcome = q.outcome,
        at = CASE WHEN t.parked AND NOT q.parked THEN q.due ELSE t.at END -- redriven
    FROM unnest($50::bigint[], $51::bigint[], $52::bigint[], $53::bigint[], $54::integer[],
        $55::boolean[], $56::bytea[], $57::bytea[])
        q (place, due, attempt, token, worker, parked, error, outcome)
    WHERE t.place = q.place
)
INSERT INTO stmflow.delivery (job, hash, answer, until)
SELECT * FROM unnest($58::bigint[], $59::bytea[], $60::bytea[], $61::bigint[])
"""
CLAIM = """
WITH due AS (
    SELECT t.place FROM unnest($2::text[], $3::bigint[], $4::bytea[], $5::bigint[], $7::bytea[])
        q (workflow, version, tag, most, tenant),
    LATERAL (
        SELECT place FROM stmflow.task
        WHERE workflow = q.workflow AND version = q.version AND tag = q.tag
            AND worker IS NULL AND NOT parked AND due <= $6
        ORDER BY due LIMIT q.most FOR UPDATE SKIP LOCKED
    ) t
), unwatched AS (
    DELETE FROM stmflow.watch w USING due WHERE w.place = due.place
)
UPDATE stmflow.task t SET worker = $1, token = t.token + 1, attempt = t.attempt + 1
FROM due, stmflow.job j WHERE t.place = due.place AND j.nr = t.place / 1048576
RETURNING t.place, t.id, t.workflow, t.version, t.tag, t.block, t.tenant, t.at, t.due, t.attempt,
    t.token, j.id AS job
"""
CLAIM_OF = CLAIM.replace(
    "due <= $6",
    "due <= $6 AND tenant = q.tenant"
    " AND substring(tenant FROM 1 FOR 512) = substring(q.tenant FROM 1 FOR 512)",
)
YOUNGEST = {sql: sql.replace("ORDER BY due", "ORDER BY due DESC") for sql in (CLAIM, CLAIM_OF)}
WATCH = "INSERT INTO stmflow.watch (place, job) SELECT $1::bigint, unnest($2::bytea[])"
UNWATCH = "DELETE FROM stmflow.watch WHERE place = ANY ($1::bigint[]) RETURNING place, job"
# Whoever holds one of these rows may yet leave it as it is: he is waited for.
WAKE = """
WITH waiting AS (
    SELECT place FROM stmflow.task WHERE worker IS NULL
        AND place IN (SELECT w.place FROM stmflow.watch w WHERE w.job = ANY ($1::bytea[]))
    ORDER BY place FOR UPDATE
), gone AS (
    DELETE FROM stmflow.watch w USING waiting WHERE w.place = waiting.place
    RETURNING w.place, w.job
), woken AS (
    UPDATE stmflow.task t SET due = t.at FROM waiting WHERE t.place = waiting.place
)
SELECT place, job FROM gone
"""
BEAT = (
    "INSERT INTO stmflow.worker AS w (nr, until) VALUES ($1, $2)"
    " ON CONFLICT (nr) DO UPDATE SET until = greatest(w.until, excluded.until)"
)
# A claim without a worker's row: its commit landed after that worker had been reaped.
WORKERS = """
SELECT w.nr, w.until, pg_try_advisory_xact_lock($1, w.nr) AS gone FROM (
    SELECT nr, until FROM stmflow.worker
    UNION ALL
    SELECT DISTINCT worker, NULL::bigint FROM stmflow.task t WHERE worker IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM stmflow.worker w WHERE w.nr = t.worker)
) w
"""
REAP = """
UPDATE stmflow.task SET worker = NULL WHERE place IN (
    SELECT place FROM stmflow.task WHERE worker = ANY ($1::integer[])
    ORDER BY place FOR UPDATE SKIP LOCKED
) RETURNING place
"""
BURY = (
    "DELETE FROM stmflow.worker w WHERE nr = ANY ($1::integer[])"
    " AND NOT EXISTS (SELECT 1 FROM stmflow.task t WHERE t.worker = w.nr)"
)
DISOWN = """
UPDATE stmflow.task SET worker = NULL WHERE place IN (
    SELECT place FROM stmflow.task WHERE worker = $1 AND place <> ALL ($2::bigint[])
    ORDER BY place FOR UPDATE SKIP LOCKED
) RETURNING place
"""
SWEEP = """
WITH gone AS (
    DELETE FROM stmflow.delivery WHERE (job, hash) IN (
        SELECT job, hash FROM stmflow.delivery WHERE until < $1
        ORDER BY until LIMIT $2 FOR UPDATE SKIP LOCKED
    ) RETURNING 1
) SELECT count(*) FROM gone
"""
