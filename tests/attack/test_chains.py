"""Any chain, spoiled in up to three ways, is judged as a model judges its description."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capabilities.principal import Signer
from capabilities.ucan1 import delegation, invocation
from capabilities.ucanto import token as tokens
from capabilities.ucanto.token import Claim
from stmflow.cid import CID
from tests.attack.test_revocation import revocation
from tests.attack.world import Family, message_of, world
from tests.attack.world import pack as packed
from tests.capabilities.model import NOW, SERVICE, Described, Hop, faults
from tests.capabilities.ucan1.tokens import forged as forged1
from tests.capabilities.ucanto.tokens import LINK, forged
from tests.capabilities.ucanto.tokens import SERVICE as OURS

PEOPLE = ("space", "ann", "ben", "cat", "dan", "mallory", "other")
KEYS = {name: Signer.from_seed(name.encode().ljust(32, b"_")) for name in PEOPLE} | {SERVICE: OURS}
COMMANDS: dict[Family, dict[str, str]] = {
    "ucanto": {
        "all": "*",
        "store": "store/*",
        "upload": "upload/*",
        "add": "store/add",
        "list": "store/list",
    },
    "ucan1": {
        "all": "/",
        "store": "/store",
        "upload": "/upload",
        "add": "/store/add",
        "list": "/store/list",
    },
}


# --- descriptions ---------------------------------------------------------------------------------


@st.composite
def chains(draw: st.DrawFn) -> Described:
    """A good chain of one to four proofs."""
    length = draw(st.integers(1, 4))
    limits = sorted(draw(st.lists(st.none() | st.integers(5, 9), max_size=length)), key=_loosest)
    hops = tuple(
        Hop(
            PEOPLE[number],
            PEOPLE[number + 1],
            command=draw(st.sampled_from(["all", "store"])) if number == 0 else "store",
            subject="space" if number == 0 else draw(st.sampled_from(["space", None])),
            expires=draw(st.sampled_from([None, NOW + 1, NOW + 600])),
            not_before=draw(st.sampled_from([None, NOW - 1])),
            limit=limits[number] if number < len(limits) else None,
            parent=number - 1 if number else None,
        )
        for number in range(length)
    )
    return Described(
        hops,
        Hop(PEOPLE[length], SERVICE, "add", expires=NOW + 30),
        size=draw(st.integers(1, 5)),
        listed=(length - 1,),
        sent=frozenset(range(length)),
    )


def _loosest(limit: int | None) -> int:
    return -99 if limit is None else -limit


@st.composite
def spoiled(draw: st.DrawFn, family: Family) -> Described:
    """The same after one to three mutations."""
    told = draw(chains())
    if family == "ucan1":
        told = replace(told, listed=tuple(range(len(told.hops))))
    for _ in range(draw(st.integers(0, 3))):
        told = draw(st.sampled_from(MUTATIONS))(draw, told, family)
    return told


def _change(draw: st.DrawFn, told: Described, family: Family) -> Described:
    """Another value in one field of one token, the invocation included."""
    place = draw(st.integers(0, len(told.hops)))
    values: dict[str, st.SearchStrategy[Any]] = {
        "issuer": st.sampled_from(PEOPLE),
        "audience": st.sampled_from([*PEOPLE, SERVICE]),
        "signer": st.sampled_from(PEOPLE),
        "command": st.sampled_from(list(COMMANDS[family])),
        "subject": st.sampled_from(["space", "other", None]),
        "expires": st.sampled_from([None, NOW - 1, NOW, NOW + 1]),
        "not_before": st.sampled_from([None, NOW - 1, NOW, NOW + 1]),
        "limit": st.none() | st.integers(0, 9),
    }
    name = draw(st.sampled_from(list(values)))
    value = draw(values[name])
    if place < len(told.hops):
        hops = list(told.hops)
        hops[place] = replace(hops[place], **{name: value})
        return replace(told, hops=tuple(hops))
    if (name, value) == ("subject", None) or name == "limit":
        return told  # no invocation has either
    if name == "not_before" and family == "ucan1":
        return told
    if name == "command" and value not in ("add", "list"):
        value = "upload"
    return replace(told, asked=replace(told.asked, **{name: value}))


def _size(draw: st.DrawFn, told: Described, family: Family) -> Described:
    return replace(told, size=draw(st.integers(1, 12)))


def _withhold(draw: st.DrawFn, told: Described, family: Family) -> Described:
    return replace(told, sent=told.sent - {draw(st.integers(0, len(told.hops) - 1))})


def _relist(draw: st.DrawFn, told: Described, family: Family) -> Described:
    """Proofs left out, twice, or in another order."""
    places = st.integers(0, len(told.hops) - 1)
    if family == "ucan1":
        listed = draw(st.permutations(told.listed) | st.lists(places, max_size=4))
        return replace(told, listed=tuple(listed))
    return replace(told, listed=tuple(draw(st.lists(places, max_size=1))))


def _unlink(draw: st.DrawFn, told: Described, family: Family) -> Described:
    """A proof that rests on another one above it, or on none."""
    place = draw(st.integers(0, len(told.hops) - 1))
    above = [None, *range(place)]
    hops = list(told.hops)
    hops[place] = replace(hops[place], parent=draw(st.sampled_from(above)))
    return replace(told, hops=tuple(hops))


def _revoke(draw: st.DrawFn, told: Described, family: Family) -> Described:
    pair = (draw(st.integers(0, len(told.hops) - 1)), draw(st.sampled_from(PEOPLE)))
    return replace(told, revoked=(*told.revoked, pair))


MUTATIONS = (_change, _change, _change, _size, _withhold, _relist, _unlink, _revoke)


# --- bytes ----------------------------------------------------------------------------------------


def built(family: Family, told: Described) -> tuple[bytes, list[bytes]]:
    """The body that a description stands for, and the blocks of its proofs."""
    return _ucanto(told) if family == "ucanto" else _ucan1(told)


def _ucanto(told: Described) -> tuple[bytes, list[bytes]]:
    made: list[bytes] = []
    for number, hop in enumerate(told.hops):
        proofs = [] if hop.parent is None else [CID.of(made[hop.parent])]
        limit = {} if hop.limit is None else {"size": hop.limit}
        # A nonce, so that no two proofs are one block.
        made.append(_token(hop, limit, proofs, nonce=str(number)))
    arguments = {"link": LINK, "size": told.size} if told.asked.command == "add" else {}
    proofs = [CID.of(made[place]) for place in told.listed]
    data = _token(told.asked, arguments, proofs, nonce="asked")
    blocks = {CID.of(made[place]): made[place] for place in told.sent}
    return message_of([CID.of(data)], {**blocks, CID.of(data): data}), made


def _token(hop: Hop, nb: dict[str, Any], proofs: list[CID], *, nonce: str) -> bytes:
    resource = "ucan:*" if hop.subject is None else KEYS[hop.subject].did.text
    made = tokens.issue(
        KEYS[hop.issuer],
        KEYS[hop.audience].did,
        [Claim(COMMANDS["ucanto"][hop.command], resource, nb or None)],
        expires=hop.expires,
        not_before=hop.not_before,
        nonce=nonce,
        proofs=proofs,
    )
    return forged(made, KEYS[hop.signer]) if hop.forged else made.data


def _ucan1(told: Described) -> tuple[bytes, list[bytes]]:
    made = []
    for number, hop in enumerate(told.hops):
        token = delegation.issue(
            KEYS[hop.issuer],
            audience=KEYS[hop.audience].did,
            subject=None if hop.subject is None else KEYS[hop.subject].did,
            command=COMMANDS["ucan1"][hop.command],
            nonce=bytes((number,)),
            expires=hop.expires,
            not_before=hop.not_before,
            statements=[] if hop.limit is None else [["<=", ".size", hop.limit]],
        )
        made.append(forged1(token, KEYS[hop.signer]) if hop.forged else token.data)
    asked = told.asked
    assert asked.subject is not None
    token1 = invocation.issue(
        KEYS[asked.issuer],
        subject=KEYS[asked.subject].did,
        command=COMMANDS["ucan1"][asked.command],
        arguments={"link": LINK, "size": told.size},
        nonce=b"asked",
        expires=asked.expires,
        audience=KEYS[asked.audience].did,
        proofs=[CID.of(made[place]) for place in told.listed],
    )
    data = forged1(token1, KEYS[asked.signer]) if asked.forged else token1.data
    return packed(data, *(made[place] for place in told.sent)), made


# --- the comparison -------------------------------------------------------------------------------

SEEN: Counter[str] = Counter()


async def compare(family: Family, told: Described) -> None:
    body, proofs = built(family, told)
    wanted = faults(family, told)
    async with world() as service:
        for place, by in told.revoked:
            data = proofs[place]
            assert (await service.post("ucanto", revocation(KEYS[by], data))).ok
        before = service.snapshot()
        answer = await service.post(family, body)
        assert answer.status == 200
        SEEN.update(wanted or ["accepted"])
        if not wanted:
            assert answer.ok is not None, answer
        else:
            assert answer.ok is None, (wanted, answer)
            assert wanted & set(answer.names), (wanted, answer)
            assert service.snapshot() == before


@given(spoiled("ucanto"))
@settings(max_examples=200)
def test_ucanto_judges_as_the_model_does(told: Described) -> None:
    anyio.run(partial(compare, "ucanto", told))


@given(spoiled("ucan1"))
@settings(max_examples=200)
def test_ucan_1_judges_as_the_model_does(told: Described) -> None:
    anyio.run(partial(compare, "ucan1", told))


@pytest.mark.parametrize("family", ["ucanto", "ucan1"])
def test_the_model_knows_a_good_chain_from_a_bad_one(family: Family) -> None:
    """A model that accepts everything, or nothing, would agree with a broken service."""
    hops = (Hop("space", "ann"), Hop("ann", "ben", parent=0))
    listed = (1,) if family == "ucanto" else (0, 1)
    good = Described(hops, Hop("ben", SERVICE, "add"), 5, listed, frozenset((0, 1)))
    assert faults(family, good) == set()
    assert faults(family, replace(good, sent=frozenset((1,)))) == {"UnavailableProof"}
    forged_ = (hops[0], replace(hops[1], signer="mallory"))
    assert faults(family, replace(good, hops=forged_)) == {"InvalidSignature"}
    assert faults(family, replace(good, revoked=((0, "space"),))) == {"Revoked"}
    assert faults(family, replace(good, revoked=((0, "mallory"),))) == set()
