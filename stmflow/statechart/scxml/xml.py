"""The one place that knows lxml: elements read and made, all in the namespace of SCXML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from lxml import etree

from stmflow.errors import InvalidWorkflow, LimitExceeded
from stmflow.limits import LIMITS

NAMESPACE: Final = "http://www.w3.org/2005/07/scxml"

Node = Any
"""An element of lxml."""


def parsed(text: str | bytes) -> Node:
    """The root of a document. Nothing is fetched and no entity is expanded.

    Raises:
        InvalidWorkflow: not XML, not SCXML, or with a document type definition.
        LimitExceeded: more than `block_bytes`.
    """
    data = text.encode() if isinstance(text, str) else text
    if len(data) > LIMITS.block_bytes:
        raise LimitExceeded(f"a document of {len(data)} bytes; at most {LIMITS.block_bytes}")
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise InvalidWorkflow(f"not XML: {error}") from None
    if root.getroottree().docinfo.doctype:
        raise InvalidWorkflow("a document type definition is refused")
    if root.tag != f"{{{NAMESPACE}}}scxml":
        raise InvalidWorkflow(f"the root is {root.tag}, not scxml")
    return root


def tag(at: Node) -> str:
    """An element's name; one of another namespace has it in braces."""
    name = etree.QName(at)
    own = name.namespace == NAMESPACE
    return str(name.localname) if own else f"{{{name.namespace}}}{name.localname}"


def named(at: Node, name: str) -> Sequence[Node]:
    """The children of that name."""
    return list(at.findall(f"{{{NAMESPACE}}}{name}"))


def below(at: Node, name: str) -> Sequence[Node]:
    """Everything of that name inside it, in document order."""
    return list(at.iter(f"{{{NAMESPACE}}}{name}"))


def document(**attributes: str) -> Node:
    """A new root."""
    root = etree.Element(f"{{{NAMESPACE}}}scxml", nsmap={None: NAMESPACE})
    for name, value in attributes.items():
        root.set(name, value)
    return root


def add(around: Node, element: str, /, **attributes: str) -> Node:
    """A new child; attributes that are empty are left out."""
    given = {key: value for key, value in attributes.items() if value}
    return etree.SubElement(around, f"{{{NAMESPACE}}}{element}", given)


def remark(around: Node, text: str) -> None:
    """A comment."""
    around.append(etree.Comment(f" {text.replace('--', '- -')} "))


def written(root: Node) -> str:
    """The document as text."""
    etree.indent(root, "  ")
    return str(etree.tostring(root, encoding="unicode")) + "\n"
