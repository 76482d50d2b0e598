"""What the figures of each peer do not say by themselves; written into the results."""

from __future__ import annotations

OUTBOX = {
    "W1": "no lease, retry, limit, history or dedupe of outcomes; a caller in another process"
    " could not wait for the end of a job",
    "W2": "one UPDATE of a row for each increment: no event is kept, a repeated one counts twice",
    "W3": "a worker asks for the next due time whenever it has nothing to do",
    "W4": "rows are held by the transaction: the server frees them when the connection dies, and"
    " a handler that never returns holds its batch for ever",
}

DBOS = {
    "W1": "a coroutine workflow and three coroutine steps, started in the process that waits",
    "W2": "each increment is a workflow with one datasource transaction: DBOS has no object with"
    " state of its own that many callers share",
    "W3": "a sleeping workflow is a coroutine in memory, and is started again after a restart",
    "W4": "recovered at once by the executor of the same id; another host needs Conductor for that",
}
DBOS_SQLITE = {
    **DBOS,
    "W1": DBOS["W1"] + "; its documentation recommends PostgreSQL for production. SQLite as it is"
    " opened: rollback journal, synchronous=FULL",
}

ABSURD = {
    "W1": "the SDK learns of an end by polling: after 50 ms, then less and less often; idle"
    " workers poll every 50 ms here (0.25 s by default). A worker has one connection, and claims"
    " again when all that it claimed has ended",
    "W2": "each increment is a task with one step; the step's own statement is what makes it count"
    " once. The end is learnt by polling",
    "W3": "eight workers poll every 50 ms: that is their idle CPU",
    "W4": "what a dead worker held is claimed again when its lease ends: 10 s here, 120 s by"
    " default. Few are begun twice, since a worker's one connection had begun few of what it held",
}

RESTATE = {
    "W1": "a service with three runs, called over HTTP with an idempotency key; server, service"
    " and caller are three processes",
    "W2": "a virtual object: calls for one key are run one after the other",
    "W4": "the service is killed, its server lives on (as PostgreSQL does for the others) and calls"
    " again with growing pauses from 0.5 s on",
}
