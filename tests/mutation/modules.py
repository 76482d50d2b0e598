"""Which tests have to notice a fault in which module: those of them that run the line, those of
the first file before the others."""

from __future__ import annotations

ENGINE = (
    "tests/stmflow/test_job.py",
    "tests/stmflow/test_transactor.py",
    "tests/stmflow/test_transactional.py",
    "tests/stmflow/test_registered.py",
    "tests/stmflow/test_commutative.py",
    "tests/stmflow/test_placement.py",
    "tests/stmflow/test_retry.py",
    "tests/stmflow/test_versions.py",
    "tests/stmflow/test_planned_again.py",
    "tests/stmflow/test_history.py",
    "tests/stmflow/test_pressure.py",
    "tests/stmflow/test_trace.py",
    "tests/stmflow/test_workflow.py",
    "tests/scheduler/test_scheduler.py",
)
LOOP = (
    "tests/scheduler/test_scheduler.py",
    "tests/scheduler/test_retry.py",
    "tests/scheduler/test_shares.py",
    "tests/scheduler/test_turns.py",
    "tests/scheduler/test_placing.py",
    "tests/scheduler/test_health.py",
)
PROOFS = ("tests/attack/test_attacks.py", "tests/attack/test_chains.py")

MODULES: dict[str, tuple[str, ...]] = {
    "stmflow.effect": ("tests/stmflow/test_effect.py", *ENGINE),
    "stmflow.transaction": ("tests/stmflow/test_transaction.py", *ENGINE),
    "stmflow.request": ("tests/stmflow/test_transactor.py", *ENGINE),
    "stmflow.job": ENGINE,
    "scheduler.retry": ("tests/scheduler/test_retry.py", *LOOP),
    "scheduler.slots": ("tests/scheduler/test_slots.py", *LOOP),
    "scheduler.shares": ("tests/scheduler/test_shares.py", *LOOP),
    "scheduler.loop": LOOP,
    "capabilities.ucan1.chain": ("tests/capabilities/ucan1/test_chain.py", *PROOFS),
    "capabilities.ucan1.policy": ("tests/capabilities/ucan1/test_policy.py", *PROOFS),
    "capabilities.ucanto.validator": ("tests/capabilities/ucanto/test_validator.py", *PROOFS),
}
