"""Parsers against bytes that nobody meant: no crash, no hang, no memory kept.

    python -m tests.attack.fuzz --minutes 10                    every parser, in turn
    python -m tests.attack.fuzz --minutes 2 --family ucan1      those of one family
    python -m tests.attack.fuzz --minutes 2 --parser token --seed 7

With `atheris` (coverage-guided, a package of its own: docs/attacks.md) where it can be imported,
else by mutating good inputs, as the tests do for a second each. A parser may refuse with the errors
that it says it raises, and with no other.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

if "--guided" in sys.argv:  # before anything that is to be instrumented is imported
    import atheris

    with atheris.instrument_imports(include=["capabilities", "stmflow"]):
        importlib.import_module("capabilities.service.body")
        importlib.import_module("capabilities.ucanto.archive")

import capabilities.service.body as bodies
from capabilities.did import DID
from capabilities.ucan1 import container, delegation, envelope, invocation, policy
from capabilities.ucanto import archive, message, receipt, token
from capabilities.ucanto.validator import authorize
from stmflow import car, codec
from stmflow.cid import CID
from stmflow.errors import CapabilityError, CodecError

ALLOWED = (CapabilityError, CodecError)
INPUT_SECONDS = 2.0
"""What one input may take; most take less than a millisecond."""
GROWTH_BYTES = 20 * 1024 * 1024
"""What the process may grow by, once its caches are full."""
INPUT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Parser:
    """One entrance. `read` is given any bytes, `seeds` makes good ones."""

    name: str
    family: str
    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]


# --- what is read ---------------------------------------------------------------------------------


def read_token(data: bytes) -> None:
    """A token: what is read has this one form, and may be asked for its id and authority."""
    found = token.decode(None, data)
    assert codec.encode(codec.decode(data)) == data
    assert found.cid == CID.of(data)
    token.delivery_id(found)
    with suppress(CapabilityError):
        authorize(found, {found.cid: data}, service=found.audience, capabilities={}, now=0)


def read_receipt(data: bytes) -> None:
    found = receipt.decode(None, data)
    assert codec.encode(codec.decode(data)) == data
    assert found.cid == CID.of(data)


def read_message(data: bytes) -> None:
    found = message.decode(data)
    message.encode(message.Message(found.invocations, {}, found.blocks))


def read_car(data: bytes) -> None:
    for cid, block in car.read(BytesIO(data), max_blocks=256):
        assert CID.of(block, cid.codec) == cid


def read_envelope(data: bytes) -> None:
    found = envelope.decode(data)
    assert data.endswith(found.signed)
    read = delegation.decode if found.kind == "dlg" else invocation.decode
    assert read(data).cid == found.cid


def read_container(data: bytes) -> None:
    assert container.decode(container.encode(container.decode(data).values())) is not None
    bodies.invoked(data)


def read_policy(data: bytes) -> None:
    """A policy, held against itself and against plain arguments."""
    plain = codec.decode(data)
    found = policy.parse(plain)
    for arguments in (plain, {"a": [1, 2.5, "text", b"bytes", {"b": None}], "b": {"c": True}}):
        found.holds(arguments)


def read_did(data: bytes) -> None:
    assert DID.decode(data).raw == data


def read_did_text(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    assert DID.parse(text).text == text


# --- good inputs ----------------------------------------------------------------------------------


def token_seeds() -> list[bytes]:
    from tests.attack import tokens0
    from tests.capabilities.ucanto import tokens as t

    full = token.issue(
        t.ALICE,
        t.SERVICE.did,
        [t.claim(link=t.LINK, size=100), t.claim("*", "ucan:*")],
        expires=None,
        not_before=1,
        nonce="é",
        facts=[{"a": [1, -1, 0.5, None, True, b"bytes", t.LINK, {"b": {}}]}],
        proofs=[tokens0.ROOT.cid],
    )
    account = t.grant(t.ACCOUNT, t.ALICE)
    return [tokens0.ASK.data, tokens0.ROOT.data, full.data, account.data]


def receipt_seeds() -> list[bytes]:
    from tests.attack import tokens0
    from tests.capabilities.ucanto import tokens as t

    cid = tokens0.ASK.cid
    return [
        receipt.issue(t.SERVICE, cid, {"ok": {"a": [1, b"x"]}}, fork=[cid]).data,
        receipt.issue(t.WEB, cid, {"error": {"name": "A", "message": "b"}}).data,
    ]


def message_seeds() -> list[bytes]:
    from tests.attack import tokens0, world
    from tests.capabilities.ucanto import tokens as t

    told = receipt.issue(t.SERVICE, tokens0.ASK.cid, {"ok": {}})
    reply = message.Message(receipts={tokens0.ASK.cid: told.cid}, blocks={told.cid: told.data})
    return [
        world.post(tokens0.ASK, tokens0.ROOT),
        message.encode(reply),
        archive.encode(tokens0.ASK, {tokens0.ROOT.cid: tokens0.ROOT.data}),
    ]


def envelope_seeds() -> list[bytes]:
    from tests.attack import tokens1
    from tests.capabilities.ucan1 import tokens as t

    statements = [["==", ".a", 1], ["like", '.b["c"]?', "a*"], ["not", ["any", ".", ["<", ".", 1]]]]
    full = t.grant(t.SPACE, t.ALICE, subject=None, statements=statements, not_before=1)
    return [tokens1.ASK.data, tokens1.ROOT.data, full.data]


def container_seeds() -> list[bytes]:
    from tests.attack import tokens1

    tokens = [tokens1.ASK.data, tokens1.ROOT.data]
    forms: tuple[Any, ...] = ("raw", "base64", "base64url")
    return [container.encode(tokens, form=form, gzip=gzip) for form in forms for gzip in (0, 1)]


def policy_seeds() -> list[bytes]:
    policies: list[list[Any]] = [
        [["==", ".a[0]", 1], ["!=", ".b.c", [True, None, {"d": b"x"}]]],
        [["and", [["<", ".a[1]", 2.5], ["or", []]]], ["not", ["like", ".a[2]", r"t*\*x*"]]],
        [["all", ".a[]", ["any", ".", [">=", '["b"]?', -1]]], ["==", ".a[3][-2:]", b"es"]],
        [["==", ".a[1:3]", []], ["like", ".", "*"], ["==", ".", {}]],
    ]
    return [codec.encode(each) for each in policies]


def did_seeds() -> list[bytes]:
    from capabilities.did import base58
    from tests.capabilities.ucanto import tokens as t

    assert base58(b"a")
    p256 = bytes.fromhex("8024036b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296")
    return [t.ALICE.did.raw, t.WEB.did.raw, t.ACCOUNT.raw, p256]


def did_text_seeds() -> list[bytes]:
    texts = [DID.decode(raw).text.encode() for raw in did_seeds()]
    return [*texts, b"did:web:a.example%3A80:b:c", b"did:plc:abc"]


PARSERS = (
    Parser("token", "ucanto", read_token, token_seeds),
    Parser("receipt", "ucanto", read_receipt, receipt_seeds),
    Parser("message", "ucanto", read_message, message_seeds),
    Parser("archive", "ucanto", archive.decode, message_seeds),
    Parser("car", "ucanto", read_car, message_seeds),
    Parser("envelope", "ucan1", read_envelope, envelope_seeds),
    Parser("container", "ucan1", read_container, container_seeds),
    Parser("policy", "ucan1", read_policy, policy_seeds),
    Parser("did", "ucan1", read_did, did_seeds),
    Parser("did-text", "ucan1", read_did_text, did_text_seeds),
)


# --- plain mutation -------------------------------------------------------------------------------

BYTES = bytes.fromhex(
    "0001171819 1a1b1f20373b3f405758595b5f60777b7f8081979b9fa0a1b7bbbf d82ac1c2f4f6f7f9fafbff"
)


def mutated(chance: Random, seeds: Sequence[bytes]) -> bytes:
    """A good input, spoiled in a few places."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        place, size = chance.randrange(len(data) + 1), chance.choice((1, 1, 2, 4, 9, 40))
        match chance.randrange(8):
            case 0 if data:
                data[min(place, len(data) - 1)] ^= 1 << chance.randrange(8)
            case 1 if data:
                data[min(place, len(data) - 1)] = chance.choice(BYTES)
            case 2:
                del data[place : place + size]
            case 3:
                data[place:place] = chance.randbytes(size)
            case 4:
                data[place:place] = data[place : place + size] * chance.choice((1, 2, 40))
            case 5:
                other = chance.choice(seeds)
                start = chance.randrange(len(other))
                data[place : place + size] = other[start : start + size * 8]
            case 6:
                del data[place:]
            case _:
                data[place : place + size] = bytes(chance.choice(BYTES) for _ in range(size))
    return bytes(data[:INPUT_BYTES])


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run has found out: inputs, how many were read, the slowest, the growth of memory."""

    executions: int
    accepted: int
    slowest: float
    growth: int


def run(parser: Parser, *, seconds: float, seed: int = 0) -> Figures:
    """Mutate for so long. Raises whatever the parser must not raise."""
    chance, seeds = Random(seed), parser.seeds()
    for good in seeds:
        _refusal(parser, good)
    executions = accepted = 0
    slowest = 0.0
    started = time.perf_counter()
    base = resident()
    while (now := time.perf_counter()) - started < seconds:
        data = mutated(chance, seeds)
        accepted += _refusal(parser, data) is None
        slowest = max(slowest, time.perf_counter() - now)
        executions += 1
        if executions == 4_096:
            base = resident()  # what is remembered by CID or DID has filled up by now
    return Figures(executions, accepted, slowest, max(0, resident() - base))


def _refusal(parser: Parser, data: bytes) -> Exception | None:
    try:
        parser.read(data)
    except ALLOWED as error:
        return error
    except BaseException:
        print(f"{parser.name}: {data.hex()}", file=sys.stderr)
        raise
    return None


@cache
def _page() -> int:
    import resource

    return resource.getpagesize()


def resident() -> int:
    """The memory of this process, in bytes; 0 where there is no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _page()
    except OSError:
        return 0


# --- coverage-guided ------------------------------------------------------------------------------


def guided(parser: Parser, seconds: int, corpus: Path) -> None:
    """Run atheris in this process; it ends the process."""
    for number, seed in enumerate(parser.seeds()):
        (corpus / f"seed{number}").write_bytes(seed)
    count, base = 0, 0

    def one(data: bytes) -> None:
        nonlocal count, base
        count += 1
        _refusal(parser, data)
        if count == 20_000:
            base = resident()
        if count % 20_000 == 0:
            print(
                f"{parser.name}: {count} inputs, {(resident() - base) >> 10} KiB more", flush=True
            )

    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={seconds}",
            f"-max_len={INPUT_BYTES}",
            "-timeout=5",
            "-rss_limit_mb=1024",
            "-print_final_stats=1",
            str(corpus),
        ],
        one,
    )
    atheris.Fuzz()


def _each_in_its_process(parsers: Sequence[Parser], seconds: int) -> int:
    """Atheris ends its process, so each parser has one. The last figures of each are shown."""
    worst = 0
    for parser in parsers:
        command = [sys.executable, "-m", "tests.attack.fuzz", "--guided", "--parser", parser.name]
        ended = subprocess.run(
            [*command, "--seconds", str(seconds)], check=False, capture_output=True, text=True
        )
        lines = (ended.stdout + ended.stderr).splitlines()
        said = [line for line in lines if line.startswith((f"{parser.name}: ", "Done "))]
        print(parser.name, "|", " | ".join(said[-2:]), flush=True)
        if ended.returncode:
            print("\n".join(lines[-60:]))
        worst = max(worst, ended.returncode)
    return worst


def main() -> int:
    options = argparse.ArgumentParser(prog="tests.attack.fuzz")
    options.add_argument("--minutes", type=float, default=10)
    options.add_argument("--seconds", type=int, help="for each parser, in place of --minutes")
    options.add_argument("--family", choices=["ucanto", "ucan1"])
    options.add_argument("--parser", choices=[parser.name for parser in PARSERS])
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--plain", action="store_true", help="without atheris")
    options.add_argument("--guided", action="store_true", help=argparse.SUPPRESS)
    told = options.parse_args()
    chosen = [
        parser
        for parser in PARSERS
        if told.family in (None, parser.family) and told.parser in (None, parser.name)
    ]
    seconds = told.seconds or max(1, int(told.minutes * 60 / len(chosen)))
    if told.guided:
        with tempfile.TemporaryDirectory() as folder:
            guided(chosen[0], seconds, Path(folder))
    if not told.plain and importlib.util.find_spec("atheris") is not None:
        return _each_in_its_process(chosen, seconds)
    failed = 0
    for parser in chosen:
        faulthandler.dump_traceback_later(seconds + 60, exit=True)
        found = run(parser, seconds=seconds, seed=told.seed)
        bad = found.slowest > INPUT_SECONDS or found.growth > GROWTH_BYTES
        failed |= bad
        print(
            f"{parser.name}: {found.executions} inputs, {found.accepted} accepted,"
            f" slowest {found.slowest * 1_000:.1f} ms, {found.growth >> 10} KiB more"
            f"{' FAILED' if bad else ''}",
            flush=True,
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
