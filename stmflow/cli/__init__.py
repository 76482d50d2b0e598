"""`stmflow`, the command line: look into a database of jobs, ask a service by capability.

Every reading command opens the database read-only. Commands are loaded when they are called, and
what they need (the store, rich, capabilities) when they run, so that `--help` stays quick. What
comes from a database, a file or a service is untrusted: no control character of it reaches the
terminal (`stmflow.cli.output`).
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from io import TextIOWrapper
from typing import Any

import click

from stmflow.cli.settings import OPTIONS, remember

EPILOG = """\b
Exit codes:
  0    done; with verify: everything that was asked for holds
  1    verify, ucan show: something does not hold; invoke: nor does the answer;
       replay: the new version diverges; redrive: a task was parked again;
       doctor: errors
  2    usage: options, arguments, --app, or a file that is in the way
  3    not found: database, file, job, block, or no such parked task
  4    ambiguous: several things begin like this; they are listed
  5    not re-run: a workflow, version or archive is missing (verify, replay, redrive,
       dismiss)
  6    unusable: a database of unknown schema, corrupt, unavailable or read-only;
       a file that is no token or key; output that cannot be written
  7    outcome unknown: it may have happened; look before you try again
  8    invoke: the service refused
  9    invoke: the service cannot be reached, or is too busy; nothing has happened
  10   doctor: warnings
  70   a fault of stmflow itself   130  interrupted   141  the reader went away

A failure is one line on stderr. CIDs may be shortened to any unambiguous beginning of ten
letters or more. Every command takes --database, --app, --archive and --json, before or after its
name.
"""

COMMANDS = {
    "ls": ("jobs", "List jobs."),
    "head": ("jobs", "Show a job's head: its state, and what is still to be done."),
    "log": ("jobs", "Show a job's history, newest first."),
    "show": ("blocks", "Show any block: state, event, effect, receipt or revision."),
    "diff": ("blocks", "Show what differs between two jobs, revisions or blocks."),
    "why": ("blocks", "Say what brought a block, task or revision about."),
    "outbox": ("outbox", "List tasks and timers that are not settled."),
    "redrive": ("redrive", "Make a parked task due again, or deliver the outcome it kept."),
    "dismiss": ("redrive", "Settle a parked task without an event."),
    "doctor": ("doctor", "Say what is wrong, and what to do about it."),
    "verify": ("audit", "Check hashes, progress and reducers of histories."),
    "replay": ("replay", "Run a new version over recorded histories: would it do the same?"),
    "check": ("check", "Prove a workflow: explore every behaviour of it, with every fault."),
    "table": ("table", "Show what a workflow answers to every event in every state."),
    "diagram": ("diagram", "Draw a workflow's states, and a job's way through them."),
    "tla": ("tla", "Write a check as a TLA+ module that TLC can confirm."),
    "export": ("audit", "Write whole histories to a CAR file."),
    "backup": ("retention", "Copy the database while others write to it."),
    "archive": ("retention", "Move old history, and finished jobs with it, to the archive."),
    "gc": ("retention", "Free what is not needed any more."),
    "revive": ("retention", "Bring a job back from the archive."),
    "key": ("ucan_key", "Make keys, and show whose they are."),
    "delegate": ("ucan_delegate", "Grant somebody what a key may do."),
    "invoke": ("ucan_invoke", "Ask a service to do something, by signed capability."),
    "ucan": ("ucan_show", "Explain tokens, proofs and receipts."),
    "worker": ("worker", "Perform the tasks of a database."),
    "workers": ("worker", "List the workers of a database."),
    "serve": ("ucan_serve", "Serve an ASGI application over HTTP."),
    "completion": ("completion", "Print what makes a shell complete stmflow's commands."),
}


class _Commands(click.Group):
    """The group: commands by name, exit codes, one line for each failure."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"stmflow.cli.{COMMANDS[cmd_name][0]}")
        found: click.Command = getattr(module, cmd_name)
        return found

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse, for every command, what no file, name or database can hold."""
        for given in args:
            if "\0" in given or not _is_text(given):
                raise click.UsageError(f"an argument holds NUL, or is no UTF-8: {given!r:.80}")
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run, and leave with a documented exit code."""
        if sys.stdout is None:  # it has been closed: who called asks for the exit code alone
            sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        work = partial(
            super().main,
            args=args,
            prog_name=prog_name or "stmflow",
            complete_var=complete_var,
            standalone_mode=False,
            **extra,
        )
        if not standalone_mode:
            return work()
        sys.exit(_guarded(work))

    def invoke(self, ctx: click.Context) -> Any:
        return _guarded(partial(super().invoke, ctx))


def _is_text(given: str) -> bool:
    """Bytes that are no UTF-8 come as lone surrogates."""
    return not any("\ud800" <= char <= "\udfff" for char in given)


def _guarded(work: Callable[[], Any]) -> int:
    """The exit code of what was done, its failure told in one line."""
    from stmflow.cli import exits

    try:
        code = work()
        sys.stdout.flush()
    except (click.exceptions.Exit, SystemExit):
        raise
    except BaseException as error:
        return exits.report(error)
    return code if isinstance(code, int) else exits.OK


@click.group("stmflow", cls=_Commands, epilog=EPILOG, context_settings={"max_content_width": 96})
@click.version_option(package_name="stmflow", prog_name="stmflow")
def cli() -> None:
    """Look into a database of jobs, by CID; ask a service, by signed capability."""


for _option in reversed(OPTIONS):
    remember(cli, _option, from_environment=True)


def main() -> None:
    """The console script."""
    cli()
