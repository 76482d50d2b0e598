"""Tokens and receipts as trees for people: one line for each thing that one wants to know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from stmflow.cid import CID
from stmflow.cli.output import Node, Screen, Span, value_text
from stmflow.cli.ucan_options import UCAN1
from stmflow.cli.ucan_sheet import EXPIRED, IN_TIME
from stmflow.limits import LIMITS

_WIDE = 2_000  # letters of one value: an upload URL is not to be cut
_LINES = 64
_ANYBODY = "whomever the chain is about"


class Trees:
    """Draws what `ucan show` found. A token is drawn once, and named where it comes up again."""

    def __init__(self, story: dict[str, Any], screen: Screen) -> None:
        self._story = story
        self._screen = screen
        self._sheets = {one["cid"]: one for one in story["tokens"]}
        self._lacking = {one["cid"]: one["why"] for one in story["lacking"]}
        self._drawn: set[CID] = set()

    def receipts(self) -> Iterator[Node]:
        """The receipts, each with what it leads to."""
        for sheet in self._story["receipts"]:
            yield self.receipt(sheet)

    def tokens(self) -> Iterator[Node]:
        """What the file is about, each with its proofs below it."""
        kind = "invocation" if self._story["kind"] == "message" else self._story["kind"]
        for cid in self._story["roots"]:
            node = Node([])
            self._token(node, cid, "delegation" if kind == "archive" else kind, 0)
            yield node.children[0]

    def receipt(self, sheet: dict[str, Any]) -> Node:
        """One receipt."""
        (outcome,) = sheet["out"]
        value = sheet["out"][outcome]
        ok = outcome == "ok"
        root = Node([("receipt  ", "dim"), (sheet["cid"], "bold blue"), ("  ", "")])
        name = value.get("name") if isinstance(value, dict) else None
        told = "ok" if ok else f"error {name}" if isinstance(name, str) else "error"
        root.spans = [*root.spans, (told, "bold green" if ok else "bold red")]
        root.add(("of       ", "dim"), (sheet["ran"], ""))
        root.add(("by       ", "dim"), (sheet["issuer"] or "nobody named", ""))
        root.add(("signed   ", "dim"), *_signed(sheet["signature"]))
        _grow(root, f"{outcome}:", value)
        for cid in sheet["fork"]:
            self._token(root, cid, "leads to", 0)
        if sheet["join"] is not None:
            self._token(root, sheet["join"], "then", 0)
        return root

    def _token(self, above: Node, cid: CID, label: str, depth: int) -> None:
        """Hang a token below a node, its proofs below it."""
        lead: Span = (f"{label}  ", "dim")
        sheet = self._sheets.get(cid)
        if sheet is None:
            above.add(lead, (cid, ""), (f"  {self._lacking.get(cid, 'not here')}", "yellow"))
            return
        if cid in self._drawn:
            above.add(lead, (cid, ""), ("  as above", "dim"))
            return
        self._drawn.add(cid)
        if sheet["family"] == UCAN1 and label not in ("proof", "leads to", "then"):
            lead = (f"{sheet['kind']}  ", "dim")
        node = above.add(lead, (cid, "bold blue"), (f"  UCAN {sheet['version']}", "dim"))
        self._facts(node, sheet)
        proofs = self._proofs(sheet)
        if depth == LIMITS.proof_chain and proofs:
            node.add((f"{len(proofs)} proofs, too deep to be followed", "yellow"))
            return
        for proof in proofs:
            self._token(node, proof, "proof", depth + 1)

    def _facts(self, node: Node, sheet: dict[str, Any]) -> None:
        asks = sheet["kind"] == "invocation"
        node.add(("from     ", "dim"), (sheet["issuer"], "bold"))
        node.add(("to       ", "dim"), (sheet["audience"], "bold"))
        for grant in sheet["grants"]:
            line = node.add(
                ("asks     " if asks else "may      ", "dim"),
                (grant["can"], "bold cyan"),
                ("  on ", "dim"),
                (grant["with"] or _ANYBODY, ""),
                ("  (its own)" if grant["with"] == sheet["issuer"] else "", "dim"),
            )
            for name, item in grant.get("nb", grant.get("args", {})).items():
                _grow(line, f"{name}:", item)
            for statement in grant.get("policy", ()):
                line.add(("where ", "dim"), (value_text(statement, _WIDE), ""))
        node.add(("until    ", "dim"), *self._until(sheet))
        node.add(("signed   ", "dim"), *_signed(sheet["signature"]))
        for fact in sheet["facts"]:
            _grow(node, "says:", fact)

    def _until(self, sheet: dict[str, Any]) -> list[Span]:
        expires, begins = sheet["expires"], sheet["not_before"]
        told = "for ever" if expires is None else self._screen.when(expires * 1_000)
        if begins is not None:
            told += f", from {self._screen.when(begins * 1_000)} on"
        style = {IN_TIME: "green", EXPIRED: "red"}.get(sheet["time"], "yellow")
        return [(f"{told}  ", ""), (sheet["time"], style)]

    def _proofs(self, sheet: dict[str, Any]) -> Sequence[CID]:
        """What a token rests on. In UCAN 1.0 an invocation lists all, root first: the last one
        stands below it, and below that what was granted to its issuer."""
        links: list[CID] = sheet["proofs"]
        if sheet["family"] != UCAN1:
            return links
        if sheet["kind"] == "invocation":
            return links[-1:]
        (grant,) = sheet["grants"]
        if sheet["issuer"] == grant["with"]:
            return []
        return [
            cid
            for cid, one in self._sheets.items()
            if one["kind"] == "delegation"
            and one["audience"] == sheet["issuer"]
            and _covers(one["grants"][0], grant)
        ]


def _covers(outer: dict[str, Any], inner: dict[str, Any]) -> bool:
    from capabilities.ucan1 import fields

    same = inner["with"] is None or outer["with"] in (None, inner["with"])
    return same and fields.covers(outer["can"], inner["can"])


def _signed(signature: dict[str, Any]) -> list[Span]:
    said = f"{signature['algorithm'] or 'nothing'}  "
    if signature["good"]:
        return [(said, ""), ("good", "green")]
    why: Span = (f"  ({signature['why']})", "dim")
    if signature["good"] is None:
        return [(said, ""), ("not checked", "yellow"), why]
    return [(said, ""), ("bad", "bold red"), why]


def _grow(above: Node, label: str, value: Any) -> None:
    """Hang a value below a node: maps, lists and text of several lines open up."""
    if isinstance(value, dict) and value:
        node = above.add((label, "dim"))
        for name, item in value.items():
            _grow(node, f"{name}:", item)
    elif isinstance(value, list) and value:
        node = above.add((label, "dim"))
        for at, item in enumerate(value):
            _grow(node, f"{at}:", item)
    elif isinstance(value, str) and "\n" in value:
        node = above.add((label, "dim"))
        for line in value.split("\n")[:_LINES]:
            node.add((line[:_WIDE], ""))
    else:
        above.add((f"{label} ", "dim"), (value_text(value, _WIDE), ""))
