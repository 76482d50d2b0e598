"""stmflow: an STM-backed workflow engine for content-addressed storage jobs.

    event → update(event, state) → state' + effects → compare-and-swap → outbox → handler → event

The public names, on one screen. Each is imported when it is first asked for, so that importing this
package costs next to nothing, loads no driver and does no IO.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stmflow.cell import CELL
    from stmflow.cid import CID
    from stmflow.clock import Clock, SystemClock
    from stmflow.effect import ANY, Effect, Err, Sleep, cancel, perform, sleep, together
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
        reject,
        same,
    )

_HOME = {
    "cell": "CELL",
    "cid": "CID",
    "clock": "Clock SystemClock",
    "effect": "ANY Effect Err Sleep cancel perform sleep together",
    "errors": "StmflowError",
    "job": "Head",
    "limits": "LIMITS Limits",
    "schema": "At Data",
    "transaction": "Answer Tx",
    "transactor": "Transactor",
    "workflow": "Guard Hook Job Workflow ignore impossible reject same",
}
_MODULE = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = [
    "ANY",
    "CELL",
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
    "Sleep",
    "StmflowError",
    "SystemClock",
    "Transactor",
    "Tx",
    "Workflow",
    "cancel",
    "ignore",
    "impossible",
    "perform",
    "reject",
    "same",
    "sleep",
    "together",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'stmflow' has no attribute {name!r}")
    value = getattr(import_module(f"stmflow.{_MODULE[name]}"), name)
    globals()[name] = value
    return value
