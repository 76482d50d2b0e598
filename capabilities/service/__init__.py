"""The one room of `capabilities` that knows jobs: bytes in, a job started or found, bytes out."""

from capabilities.service.app import application
from capabilities.service.authority import REVOCATION
from capabilities.service.provider import (
    Asked,
    Call,
    Fault,
    Ok,
    Provider,
    Reads,
    Result,
    provide,
)
from capabilities.service.service import WORKFLOWS, Answered, Service
from capabilities.service.task import TASK, Task

__all__ = [
    "REVOCATION",
    "TASK",
    "WORKFLOWS",
    "Answered",
    "Asked",
    "Call",
    "Fault",
    "Ok",
    "Provider",
    "Reads",
    "Result",
    "Service",
    "Task",
    "application",
    "provide",
]
