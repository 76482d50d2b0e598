"""`serve`: an ASGI application of the host's own, over HTTP."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from stmflow.cli.settings import OPTIONS, Option, Settings, command, named

if TYPE_CHECKING:
    import uvicorn

_APP = Option(
    "--app", "app", "STMFLOW_APP", "MODULE:NAME", "The ASGI application that is to be served."
)
_BACKLOG = 2_048


@command(
    short_help="Serve an ASGI application over HTTP.",
    shared=[_APP if option.name == _APP.name else option for option in OPTIONS],
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8000,
    show_default=True,
    help="0: a free one.",
)
@click.option(
    "--log",
    type=click.Choice(["text", "json"]),
    help="Log to standard error in this form, without secrets. Default: warnings of the server.",
)
def serve(settings: Settings, host: str, port: int, log: str | None) -> None:
    """Serve the ASGI application at --app until SIGTERM or SIGINT, requests under way included.

    It is what `capabilities.service.application` gives, or what mounts that; it opens its store in
    its lifespan. Where it listens is printed, in one line, when it is ready.
    """
    app = _application(settings)
    try:
        config = _config(app, log)
    except ImportError:
        raise click.UsageError("serving needs uvicorn: pip install 'stmflow[http]'") from None

    with _listening(host, port) as listener:
        server = _server(config, lambda: _announce(settings, host, listener))
        with suppress(SystemExit):  # uvicorn's way to say that it did not start
            server.run(sockets=[listener])
    if not server.started:
        raise click.UsageError(f"--app {settings.app!s:.80} did not start; it has said why")


def _config(app: Any, log: str | None) -> uvicorn.Config:
    import uvicorn

    quiet: dict[str, Any] = {"access_log": False, "server_header": False}
    if log is None:
        return uvicorn.Config(app, log_level="warning", **quiet)
    from stmflow.observe.logs import configure

    configure(json=log == "json")
    return uvicorn.Config(app, log_config=None, **quiet)


def _application(settings: Settings) -> Any:
    if settings.app is None:
        raise click.UsageError("serve what? Give --app MODULE:NAME, an ASGI application")
    found = named(settings.app)
    if not callable(found):
        kind = type(found).__name__
        raise click.UsageError(f"--app {settings.app:.80} is no ASGI application but a {kind}")
    return found


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket on which to listen. Raises `UsageError`."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise click.UsageError(f"cannot listen on {host:.80}:{port}: {told}") from None
    with listener:
        yield listener


def _announce(settings: Settings, host: str, listener: socket.socket) -> None:
    from stmflow.cli.output import Screen, emit

    shown = f"[{host}]" if ":" in host else host
    endpoint = f"http://{shown}:{listener.getsockname()[1]}"
    if settings.json:
        emit({"endpoint": endpoint})
    else:
        Screen().line(("serving on ", ""), (endpoint, "bold"))
    sys.stdout.flush()


def _server(config: uvicorn.Config, ready: Callable[[], None]) -> uvicorn.Server:
    """A server that says when it is ready, and for which a signal is a good end."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            if self.started:
                ready()

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """As uvicorn does, but not raised again afterwards."""
            known = (signal.SIGTERM, signal.SIGINT)
            before = {one: signal.signal(one, self.handle_exit) for one in known}
            try:
                yield
            finally:
                for one, handler in before.items():
                    signal.signal(one, handler)

    return Server(config)
