---- MODULE Lease ----
(* Jobs, workers and leases that may end: what is committed is committed once, under its fence.
   The yardstick for `benchmarks/lease.py`, which says the same as a workflow. *)
EXTENDS Naturals
CONSTANTS Jobs, Workers, MaxFence
VARIABLES status, fence, holder, seen, commits
vars == <<status, fence, holder, seen, commits>>

Init ==
    /\ status = [j \in Jobs |-> "pending"]
    /\ fence = [j \in Jobs |-> 0]
    /\ holder = [j \in Jobs |-> "nobody"]
    /\ seen = [w \in Workers |-> [j \in Jobs |-> 0]]
    /\ commits = [j \in Jobs |-> 0]

Take(w, j) ==
    /\ status[j] = "pending" /\ fence[j] < MaxFence
    /\ status' = [status EXCEPT ![j] = "leased"]
    /\ fence' = [fence EXCEPT ![j] = @ + 1]
    /\ holder' = [holder EXCEPT ![j] = w]
    /\ seen' = [seen EXCEPT ![w][j] = fence[j] + 1]
    /\ UNCHANGED commits
Expire(j) ==
    /\ status[j] = "leased"
    /\ status' = [status EXCEPT ![j] = "pending"]
    /\ holder' = [holder EXCEPT ![j] = "nobody"]
    /\ UNCHANGED <<fence, seen, commits>>
Commit(w, j) ==
    /\ status[j] = "leased" /\ seen[w][j] = fence[j]
    /\ status' = [status EXCEPT ![j] = "done"]
    /\ commits' = [commits EXCEPT ![j] = @ + 1]
    /\ UNCHANGED <<fence, holder, seen>>
Fail(j) ==
    /\ status[j] = "pending" /\ fence[j] = MaxFence
    /\ status' = [status EXCEPT ![j] = "failed"]
    /\ UNCHANGED <<fence, holder, seen, commits>>

Next == \E j \in Jobs :
    Expire(j) \/ Fail(j) \/ \E w \in Workers : Take(w, j) \/ Commit(w, j)
Spec == Init /\ [][Next]_vars

Once == \A j \in Jobs : commits[j] <= 1 /\ (status[j] = "done" => commits[j] = 1)
====
