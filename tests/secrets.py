"""A pytest plugin: no test may let a secret out, whatever else it is about.

Every key and every secret that is made while tests run is known by name. After each test, all that
was captured of it is searched: stdout, stderr, logs, what it read from them itself, what commands
and child processes answered, and the files in its `tmp_path`. A test that shows a secret on purpose
is marked `@pytest.mark.shows("key")`, and says by that which kind. (A warning fails its test as it
is.)

What is found is told by its name, never by its value.
"""

from __future__ import annotations

import base64
import re
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from capabilities.principal import Signer
from scheduler.handlers.s3.client import Secret

SHORTEST = 8
"""A shorter text may be anywhere by chance."""
FILE_BYTES = 4 * 1024 * 1024
FILES = 64
"""Of larger files the beginning is searched, and of so many files at most."""
SIGNED = re.compile(r"X-Amz-Signature=([0-9a-f]{16})[0-9a-f]{48}", re.I)
"""The signature of a presigned URL: whoever has it may write."""
LOGS = ("Captured log", "Captured stderr")


class Secrets:
    """All secrets of this process, by their texts; and what the running test has let out."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self.before: dict[bytes, str] = {}
        self.now: dict[bytes, str] = {}
        self.said: list[tuple[str, str]] = []
        self.running = False
        self.seconds = 0.0

    def text(self, kind: str, name: str, text: str) -> None:
        """Know a secret by its text, and what it looks like in base64."""
        if len(text) < SHORTEST:
            return
        for form in (text, base64.b64encode(text.encode()).decode().rstrip("=")[:-1]):
            self.known.setdefault(form, f"{kind}: {name}")
        self._bytes(text.encode(), f"{kind}: {name}")

    def key(self, signer: Signer) -> None:
        """Know a private key in the forms in which it may be written."""
        name, seed = f"key: {signer.did.text:.60}", signer._secret[:32]
        for form in (signer.format().strip("="), seed.hex(), base64.b64encode(seed).decode()[:42]):
            self.known.setdefault(form, name)
        self._bytes(seed, name)
        self._bytes(signer.format().encode(), name)

    def _bytes(self, data: bytes, name: str) -> None:
        (self.now if self.running else self.before).setdefault(data, name)

    def hear(self, where: str, text: Any) -> None:
        """Something came out of the running test."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        if isinstance(text, str) and text and self.running:
            self.said.append((where, text))

    def found(self) -> Iterator[tuple[str, str]]:
        """Where each secret was let out, and its name."""
        for where, text in self.said:
            yield from ((where, name) for form, name in self.known.items() if form in text)
            if where.startswith(LOGS):
                yield from ((where, "url: a signature") for _ in SIGNED.finditer(text))

    def found_below(self, folder: Path) -> Iterator[tuple[str, str]]:
        """The same for files: all but those that hold a key and nothing else, for their owner."""
        wanted = self.before | self.now
        for path in sorted(folder.rglob("*"))[:FILES]:
            try:
                info = path.lstat()
                if not stat.S_ISREG(info.st_mode) or not info.st_size:
                    continue
                with path.open("rb") as file:
                    data = file.read(FILE_BYTES)
            except OSError:
                continue
            owner = not info.st_mode & 0o077
            for form, name in wanted.items():
                if form in data and not (owner and _is_a_key(data)):
                    yield f"file {path.name}", name


def _is_a_key(data: bytes) -> bool:
    return len(data) < 200 and data.count(b"\n") <= 1


SECRETS = Secrets()


class Watch:
    """The plugin."""

    def __init__(self, secrets: Secrets) -> None:
        self.secrets = secrets
        self._undo: list[Callable[[], None]] = []

    def pytest_configure(self, config: pytest.Config) -> None:
        config.addinivalue_line(
            "markers", "shows(kind): lets a secret of this kind out on purpose: key, secret, url"
        )
        hear, secrets = self.secrets.hear, self.secrets
        self._after(Secret, "__init__", lambda made, text, _: secrets.text("secret", "S3", text))
        self._keys("generate")
        self._keys("parse")
        self._after(pytest.CaptureFixture, "readouterr", lambda _, out: _both(hear, "read", out))
        self._after(CliRunner, "invoke", lambda _, *rest: hear("command", rest[-1].output))
        self._after(
            subprocess.Popen, "communicate", lambda _, *rest: _both(hear, "process", rest[-1])
        )

    def _keys(self, name: str) -> None:
        """Know the keys that are made so. (One from a seed may be anybody's: that of a blob is.)"""
        method = getattr(Signer, name)

        @wraps(method)
        def told(*args: Any) -> Signer:
            signer: Signer = method(*args)
            self.secrets.key(signer)
            return signer

        before = vars(Signer)[name]
        setattr(Signer, name, staticmethod(told))
        self._undo.append(lambda: setattr(Signer, name, before))

    def _after(self, owner: Any, name: str, then: Callable[..., None]) -> None:
        """Be told of each call of a method: of its object, its arguments and its answer."""
        method = getattr(owner, name)

        @wraps(method)
        def told(self: Any, *args: Any, **named: Any) -> Any:
            answer = method(self, *args, **named)
            then(self, *args, answer)
            return answer

        setattr(owner, name, told)
        self._undo.append(lambda: setattr(owner, name, method))

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        if config.get_verbosity() > 0:
            searched = f"secrets were searched for {self.secrets.seconds:.2f} s"
            terminalreporter.write_line(searched)

    def pytest_unconfigure(self) -> None:
        while self._undo:
            self._undo.pop()()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.secrets.said.clear()
        self.secrets.now.clear()
        self.secrets.running = True
        try:
            return (yield)
        finally:
            self.secrets.running = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Iterator[Any]:
        report = yield
        if report.when == "call" or report.sections or self.secrets.said:
            began = time.perf_counter()
            for name, text in report.sections:
                if report.when in name:
                    self.secrets.hear(name, text)
            leaks = set(self.secrets.found())
            if report.when == "call" and (folder := _folder(item)) is not None:
                leaks |= set(self.secrets.found_below(folder))
            allowed = {kind for mark in item.iter_markers("shows") for kind in mark.args}
            leaks = {(where, name) for where, name in leaks if name.split(":")[0] not in allowed}
            self.secrets.said.clear()
            if leaks and report.passed:
                report.outcome = "failed"
                told = [f"{name}, in {where}" for where, name in sorted(leaks)]
                report.longrepr = "\n".join(["secrets were let out:", *told])
            self.secrets.seconds += time.perf_counter() - began
        return report


def _both(hear: Callable[[str, Any], None], where: str, answer: Any) -> None:
    if isinstance(answer, tuple) and len(answer) == 2:
        hear(where, answer[0])
        hear(where, answer[1])


def _folder(item: pytest.Item) -> Path | None:
    found = getattr(item, "funcargs", {}).get("tmp_path")
    return found if isinstance(found, Path) else None
