"""What is printed: plain and stable for pipes, drawn with rich on a terminal, or JSON.

Text from a database is untrusted. It passes `clean` before anything is written: control and format
characters come out as escapes, and rich never sees it as markup. And it may be a signed URL, which
whoever reads it could use: its signature comes out as dots.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from stmflow.cid import CID
from stmflow.codec import to_json

Span = tuple[str | CID, str]
"""Some text, or a CID (short on a terminal), and its style."""


_BEARER = re.compile(r"(X-Amz-(?:Signature|Security-Token)=)[^&\s\"'\\]+", re.IGNORECASE)


def masked(text: str) -> str:
    """The text without what makes a signed URL good: whoever reads it could use the URL."""
    return _BEARER.sub(r"\1••••••", text)


def clean(text: str) -> str:
    """The text with everything that is not plainly printable written as an escape, and masked."""
    return "".join([c if c.isprintable() and c != "\\" else _escape(c) for c in masked(text)])


def _escape(char: str) -> str:
    named = {"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(char)
    if named is not None:
        return named
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


# --- JSON ---------------------------------------------------------------------------------------


def plain_json(value: Any) -> Any:
    """Its DAG-JSON form. A map with the key `/`, which DAG-JSON reserves, gets one slash more."""
    if isinstance(value, dict):
        return {k + "/" if k and not k.strip("/") else k: plain_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    return to_json(value) if isinstance(value, (CID, bytes)) else value


def json_text(
    value: Any, *, indent: int | None = None, sort: bool = False, whole: bool = False
) -> str:
    """JSON of what may hold CIDs and bytes; nothing that a terminal would obey. Where the output is
    not in UTF-8, in ASCII.

    `whole`: signed URLs are printed with their signatures.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    form = plain_json(value)
    text = json.dumps(
        form, indent=indent, separators=separators, sort_keys=sort, ensure_ascii=not _is_utf8()
    )
    text = text if whole else masked(text)
    return "".join([c if c.isprintable() or c == "\n" else _json_escape(c) for c in text])


def _is_utf8() -> bool:
    return codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"


def _json_escape(char: str) -> str:
    return json.dumps(char)[1:-1]


def emit(value: Any, *, sort: bool = False, whole: bool = False) -> None:
    """One JSON document on one line. `sort`: with its keys in DAG-JSON's order."""
    sys.stdout.write(json_text(value, sort=sort, whole=whole) + "\n")


# --- time ---------------------------------------------------------------------------------------


def now_ms() -> int:
    """The time, for what is relative to it."""
    from stmflow.clock import SystemClock

    return SystemClock().now()


def moment(at_ms: int) -> str:
    """A time in full, UTC."""
    try:
        return datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return f"{at_ms} ms"


def relative(at_ms: int, now: int) -> str:
    """How long ago, or from now on."""
    size = abs(at_ms - now) / 1_000
    steps = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
    for seconds, unit in steps:
        if size >= seconds:
            told = f"{size / seconds:.0f} {unit}"
            return f"{told} ago" if at_ms <= now else f"in {told}"
    return "now"


# --- styles -------------------------------------------------------------------------------------

_HUES = (
    ("red", ("fail", "fault", "error", "refus", "reject", "exceed", "lost", "park", "mismatch")),
    ("yellow", ("expir", "cancel", "gone", "late", "stale", "not re-run", "not reached", "delet")),
    ("green", ("stored", "done", "ok", "complete", "success", "reserved", "settled", "finish")),
)


def hue(status: str) -> str:
    """The colour of a status, by what its name suggests."""
    low = status.lower()
    return next((style for style, words in _HUES if any(word in low for word in words)), "cyan")


# --- trees --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Node:
    """A line of a tree and what hangs below it."""

    spans: Sequence[Span]
    children: list[Node] = field(default_factory=list)

    def add(self, *spans: Span) -> Node:
        """Hang a line below this one."""
        child = Node(spans)
        self.children.append(child)
        return child


_FOLDED = ("key", "type", "due", "standing", "labels", "performs", "error")
"""Columns that give way where the terminal is narrow, so that none is cut."""

_NARROWEST = 40
"""A terminal that says it is narrower breaks lines itself: in no columns, nothing can be drawn."""

# --- the screen ---------------------------------------------------------------------------------


class Screen:
    """Where a command prints. `tty`: a person is looking."""

    def __init__(self) -> None:
        self.tty = sys.stdout.isatty() and os.environ.get("TERM", "") != "dumb"
        self.now = now_ms()
        self._console: Any = None

    @property
    def console(self) -> Any:
        """rich's console; nothing in it interprets what it is given."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
            self._console.width = max(self._console.width, _NARROWEST)
        return self._console

    def when(self, at_ms: int) -> str:
        """A time as this reader wants it: relative on a terminal, else in full."""
        return relative(at_ms, self.now) if self.tty else moment(at_ms)

    def plain(self, spans: Iterable[Span]) -> str:
        """The text of some spans, harmless."""
        return "".join([str(text) if isinstance(text, CID) else clean(text) for text, _ in spans])

    def rich(self, spans: Iterable[Span]) -> Any:
        """The same as rich's text."""
        from rich.text import Text

        line = Text()
        for text, style in spans:
            shown = text.short if isinstance(text, CID) else clean(text)
            line.append(shown, style=style or ("blue" if isinstance(text, CID) else ""))
        return line

    def line(self, *spans: Span) -> None:
        """One line."""
        if self.tty:
            self.console.print(self.rich(spans))
        else:
            sys.stdout.write(self.plain(spans) + "\n")

    def table(self, heads: Sequence[str], rows: Iterable[Iterable[Span]]) -> None:
        """Rows in columns; for a pipe one line each, columns apart by tabs."""
        if not self.tty:
            sys.stdout.write("\t".join(heads) + "\n")
            for row in rows:
                sys.stdout.write("\t".join([self.plain([cell]) for cell in row]) + "\n")
            return
        from rich.table import Table

        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
        for head in heads:
            table.add_column(head, overflow="fold", no_wrap=head not in _FOLDED)
        count = 0
        for row in rows:
            table.add_row(*[self.rich([cell]) for cell in row])
            count += 1
        if count:
            self.console.print(table, soft_wrap=False)
        else:
            self.line(("nothing", "dim"))

    def tree(self, root: Node, *, most: int) -> None:
        """A tree, of at most so many lines."""
        left = [most]
        if self.tty:
            from rich.tree import Tree

            drawn = Tree(self.rich(root.spans), guide_style="dim")
            self._grow(drawn, root, left)
            self.console.print(drawn, soft_wrap=False)
        else:
            sys.stdout.write(self.plain(root.spans) + "\n")
            self._write(root, "", left)
        if left[0] < 0:
            self.line((f"… cut after {most} lines; --lines takes more", "yellow"))

    def _grow(self, drawn: Any, node: Node, left: list[int]) -> None:
        for child in node.children:
            left[0] -= 1
            if left[0] < 0:
                return
            self._grow(drawn.add(self.rich(child.spans)), child, left)

    def _write(self, node: Node, indent: str, left: list[int]) -> None:
        for child in node.children:
            left[0] -= 1
            if left[0] < 0:
                return
            last = child is node.children[-1]
            branch, below = ("└── ", "    ") if last else ("├── ", "│   ")
            sys.stdout.write(indent + branch + self.plain(child.spans) + "\n")
            self._write(child, indent + below, left)


def key_text(key: Sequence[Any]) -> str:
    """A job's key as a path."""
    return "/".join([part if isinstance(part, str) else value_text(part) for part in key])


def value_text(value: Any, most: int = 120) -> str:
    """A plain value in one short line (still to be cleaned)."""
    if isinstance(value, CID):
        return str(value)
    if isinstance(value, bytes):
        dots = "…" if len(value) > 16 else ""
        return f"0x{value[:16].hex()}{dots} ({len(value)} bytes)"
    if isinstance(value, dict):
        text = ", ".join(
            [f"{key}: {value_text(item, most)}" for key, item in _first(value.items())]
        )
        text = f"{{{text}}}"
    elif isinstance(value, (list, tuple)):
        text = f"[{', '.join([value_text(item, most) for item in _first(value)])}]"
    elif isinstance(value, str):
        text = f'"{value}"'
    else:
        text = json.dumps(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def _first(items: Iterable[Any], most: int = 20) -> list[Any]:
    found = []
    for item in items:
        found.append(item)
        if len(found) == most:
            break
    return found
