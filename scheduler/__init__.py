"""Runs the outbox of a store: claims tasks, performs them, settles their outcomes.

Depends on `stmflow` only. `scheduler.handlers` holds the handlers of a storage service.
"""

from scheduler.handlers import Context, Handler, Performer, Probe, Transaction
from scheduler.loop import Scheduler
from scheduler.retry import Failure, Policy, Retry
from scheduler.shares import Shared, by_need, by_tenant
from scheduler.slots import Limits
from scheduler.worker import App, working

__all__ = [
    "App",
    "Context",
    "Failure",
    "Handler",
    "Limits",
    "Performer",
    "Policy",
    "Probe",
    "Retry",
    "Scheduler",
    "Shared",
    "Transaction",
    "by_need",
    "by_tenant",
    "working",
]
