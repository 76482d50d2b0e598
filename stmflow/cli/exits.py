"""Exit codes, and the one line that tells of a failure."""

from __future__ import annotations

import os
import sys
from typing import Final

import click

from stmflow import errors

OK: Final = 0
MISMATCH: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
AMBIGUOUS: Final = 4
NOT_RERUN: Final = 5
UNUSABLE: Final = 6
UNKNOWN: Final = 7
REFUSED: Final = 8
UNREACHABLE: Final = 9
WARNINGS: Final = 10
FAULT: Final = 70
INTERRUPTED: Final = 130
READER_GONE: Final = 141


class Unusable(Exception):
    """A file that was named is not what it has to be."""


class Untrusted(Exception):
    """A service's answer does not hold: it says nothing of what was done."""


class Lost(Exception):
    """No answer came to what was sent: it may have been done."""


class Refused(Exception):
    """A service would not so much as look at what was sent."""


class Unreachable(Exception):
    """Nothing could be sent, and nothing was done."""


_CODES: Final[tuple[tuple[type[BaseException], int], ...]] = (
    (click.ClickException, USAGE),
    (errors.Ambiguous, AMBIGUOUS),
    (errors.NotFound, NOT_FOUND),
    (errors.Archived, NOT_FOUND),
    (errors.UnknownTask, NOT_FOUND),
    (errors.UnknownVersion, NOT_RERUN),
    (errors.Indeterminate, UNKNOWN),
    (errors.StoreError, UNUSABLE),
    (errors.CodecError, UNUSABLE),
    (errors.WorkflowError, MISMATCH),
    (Unusable, UNUSABLE),
    (Untrusted, MISMATCH),
    (Lost, UNKNOWN),
    (Refused, REFUSED),
    (Unreachable, UNREACHABLE),
    (OSError, UNUSABLE),
    (click.Abort, INTERRUPTED),
    (KeyboardInterrupt, INTERRUPTED),
)


def code_of(error: BaseException) -> int:
    """The documented exit code of a failure."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAULT)


def report(error: BaseException) -> int:
    """Tell of a failure in one line on stderr; its exit code."""
    from stmflow.cli.output import clean

    if isinstance(error, BrokenPipeError):
        _close_stdout()
        return READER_GONE
    code = code_of(error)
    if isinstance(error, click.ClickException):
        text = error.format_message()
        context = getattr(error, "ctx", None)
        if context is not None and context.command_path:
            text += f" (see {context.command_path} --help)"
    elif code == INTERRUPTED:
        text = "interrupted"
    elif code == FAULT:
        text = f"this is a fault of stmflow: {type(error).__name__}: {error}"
    else:
        text = str(error) or type(error).__name__
    if len(text) > 1_000:
        text = text[:500] + " … " + text[-200:]
    try:
        click.echo(f"{click.style('stmflow:', fg='red')} {clean(text)}", err=True)
    except BrokenPipeError:
        pass
    return code


def _close_stdout() -> None:
    """Whatever is still to be flushed at exit goes nowhere."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass
