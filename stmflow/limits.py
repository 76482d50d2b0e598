"""Every bound in one place. Passing one is refused by name (`LimitExceeded`), before any harm.

Units: bytes, items or milliseconds, as the name says. Each is tested at n-1, n and n+1.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of one process; `LIMITS` holds the defaults that all stores share."""

    block_bytes: int = 256 * 1024
    state_bytes: int = 256 * 1024
    depth: int = 32
    items: int = 4_096
    text_bytes: int = 64 * 1024
    int_min: int = -(2**63)
    int_max: int = 2**63 - 1
    digest_bytes: int = 64
    cid_bytes: int = 96
    car_header_bytes: int = 64 * 1024
    delivery_id_bytes: int = 256

    effect_tasks: int = 256
    effect_depth: int = 16
    open_tasks_per_job: int = 1_000
    task_places: int = 2**20
    events_per_receipt: int = 16
    transactional_steps: int = 16
    chart_microsteps: int = 1_000
    chart_content: int = 16_384
    jobs_per_transaction: int = 256
    snapshot_jobs: int = 16_384

    batch_transactions: int = 256
    batch_reducer_ms: int = 50
    conflict_retries: int = 32
    body_reruns: int = 64
    queued_requests: int = 16_384
    index_segment_blocks: int = 65_536

    labels: int = 32
    label_bytes: int = 128
    need_texts: int = 64
    placed_tag_bytes: int = 512

    lease_min_ms: int = 5_000
    lease_max_ms: int = 3_600_000
    delivery_window_ms: int = 24 * 3_600_000
    retention_min_ms: int = 3_600_000
    timer_max_ms: int = 100 * 365 * 24 * 3_600_000

    request_bytes: int = 1024 * 1024
    request_blocks: int = 256
    request_token_bytes: int = 128 * 1024
    request_token_lists: int = 32_768
    request_invocations: int = 16
    concurrent_requests: int = 64
    waiting_requests: int = 256
    request_ms: int = 10_000
    did_bytes: int = 256
    ucan_int_max: int = 2**53 - 1
    arguments_bytes: int = 16 * 1024
    task_block_bytes: int = 32 * 1024
    proof_chain: int = 16
    policy_statements: int = 64
    policy_depth: int = 8
    selector_segments: int = 16
    policy_globs: int = 8


LIMITS = Limits()
