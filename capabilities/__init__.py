"""UCAN: who may ask for what. stmflow works without it.

    definition      a capability as data: its command, its arguments, how it is narrowed
    client          what an agent does: delegate, invoke, read the receipt
    did, principal  who: names, keys, key files; weak keys refused
    ucanto          UCAN 0.9.1, agent messages in CAR: what deployed storage clients speak
    ucan1           UCAN 1.0: envelopes, a policy language, linear proofs
    authorization   one result, whichever family the message came in
    service         bytes in, a job started or found, signed receipts out

The first five import from stmflow only `codec`, `cid`, `car`, `limits` and `errors`. `service`
alone knows the transactor and workflows, and needs the extra `http` for its ASGI application.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from capabilities.authorization import Authorization, explain
    from capabilities.client import Asked, Grant, delegate, invoke
    from capabilities.definition import (
        Capability,
        NoArguments,
        Size,
        all_of,
        at_most,
        equal,
        same,
    )
    from capabilities.did import DID
    from capabilities.principal import Resolver, Signer, Verifier, verifier

_HOME = {
    "authorization": "Authorization explain",
    "client": "Asked Grant delegate invoke",
    "definition": "Capability NoArguments Size all_of at_most equal same",
    "did": "DID",
    "principal": "Resolver Signer Verifier verifier",
}
_MODULE = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = [
    "DID",
    "Asked",
    "Authorization",
    "Capability",
    "Grant",
    "NoArguments",
    "Resolver",
    "Signer",
    "Size",
    "Verifier",
    "all_of",
    "at_most",
    "delegate",
    "equal",
    "explain",
    "invoke",
    "same",
    "verifier",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"capabilities.{_MODULE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
