"""stmflow: an STM-backed workflow engine for content-addressed storage jobs.

    event → update(event, state) → state\' + effects → compare-and-swap → outbox → handler → event

The public names, on one screen. Importing this loads no driver and does no IO.
"""

from stmflow.cid import CID
from stmflow.clock import Clock, SystemClock
from stmflow.effect import ANY, Effect, Err, cancel, perform, sleep, together
from stmflow.errors import StmflowError
from stmflow.job import Head
from stmflow.limits import LIMITS, Limits
from stmflow.schema import At, Data
from stmflow.transaction import Answer, Tx
from stmflow.transactor import Transactor
from stmflow.workflow import (
    Guard,
    Hook,
    Job,
    Workflow,
    ignore,
    impossible,
    job,
    reject,
    same,
)

__all__ = [
    "ANY",
    "CID",
    "LIMITS",
    "Answer",
    "At",
    "Clock",
    "Data",
    "Effect",
    "Err",
    "Guard",
    "Head",
    "Hook",
    "Job",
    "Limits",
    "StmflowError",
    "SystemClock",
    "Transactor",
    "Tx",
    "Workflow",
    "cancel",
    "ignore",
    "impossible",
    "job",
    "perform",
    "reject",
    "same",
    "sleep",
    "together",
]
__version__ = "0.1.0"
