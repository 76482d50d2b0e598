"""Logs: stable names and fields, one object a line, and no secret in any of it."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from capabilities import Signer
from scheduler import Context, Scheduler
from stmflow import Transactor
from stmflow.observe import Logs
from stmflow.observe.logs import FIELDS, JSONFormatter, TextFormatter, configure, mask
from stmflow.store.memory import MemoryStore
from tests.stmflow.observe.work import FILE, Added, Hands, Mark, Stat, file, running

SIGNATURE = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
URL = (
    "https://s3.example/bucket/key?X-Amz-Algorithm=AWS4-HMAC-SHA256"
    "&X-Amz-Credential=AKIDEXAMPLE%2F20260101%2Fus-east-1%2Fs3%2Faws4_request"
    f"&X-Amz-Security-Token=FwoGZXIvYXdzEXAMPLE&X-Amz-Signature={SIGNATURE}"
)
SECRETS = (SIGNATURE, "AKIDEXAMPLE", "FwoGZXIvYXdzEXAMPLE")


@contextmanager
def logged(formatter: logging.Formatter, level: int = logging.DEBUG) -> Iterator[io.StringIO]:
    """What is logged meanwhile."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger("stmflow")
    before = root.level
    root.addHandler(handler)
    root.setLevel(level)
    try:
        yield stream
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


async def test_a_job_can_be_followed_by_its_fields() -> None:
    with logged(JSONFormatter()) as stream:
        async with running(Logs()) as transactor:
            job = await file(transactor, "a", "flaky", delivery="first")
    about = [line for line in lines(stream) if line.get("job") == str(job.id)]
    assert [(line["event"], line["level"]) for line in about] == [
        ("send", "info"),
        ("attempt", "debug"),
        ("performed", "warning"),
        ("attempt", "debug"),
        ("performed", "warning"),
        ("attempt", "debug"),
        ("performed", "info"),
        ("settle", "info"),
        ("attempt", "debug"),
        ("performed", "info"),
        ("settle", "info"),
    ]
    send, first, failed, settle = about[0], about[1], about[2], about[7]
    assert (send["about"], send["delivery"], send["answer"]) == ("Added", "first", "committed")
    assert send["armed"] == [first["task"]] == [settle["task"]]
    assert (failed["error"], failed["attempt"], failed["again"] > 0) == ("Away", 1, True)
    assert settle["token"] == about[6]["token"] == 3
    assert settle["revision"] != send["revision"]
    assert {"batch"} < {line["event"] for line in lines(stream)}
    known = {*FIELDS, "at", "level", "logger", "message", "traceback"}
    assert all(set(line) <= known for line in lines(stream))


async def test_what_waits_for_a_person_is_an_error_and_what_wrote_nothing_is_quiet() -> None:
    with logged(JSONFormatter(), logging.INFO) as stream:
        async with running(Logs()) as transactor:
            await file(transactor, "a", "uncaught")
            await transactor.send(FILE, Added("b", "no"))
    told = [(line["event"], line["level"], line.get("answer")) for line in lines(stream)]
    assert ("settle", "error", "parked") in told
    assert [one for one in told if one[0] == "send"] == [("send", "info", "committed")]


async def test_a_log_that_is_off_is_not_written() -> None:
    with logged(JSONFormatter(), logging.ERROR) as stream:
        async with running(Logs()) as transactor:
            await file(transactor, "a")
    assert stream.getvalue() == ""


# --- secrets --------------------------------------------------------------------------------------


def key_text() -> str:
    signer = Signer.from_seed(bytes(range(32)))
    return "M" + base64.b64encode(signer.archive()).decode()


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (URL, SIGNATURE),
        (URL, "AKIDEXAMPLE"),
        (URL, "FwoGZXIvYXdzEXAMPLE"),
        ("Authorization: Bearer abc.def", "abc.def"),
        ("{'authorization': 'Basic dXNlcjpwYXNz'}", "dXNlcjpwYXNz"),
        ("postgresql://user:pa%2Fss@host/db?x=1", "pa%2Fss"),
        ("host=h user=u password=hunter2 dbname=d", "hunter2"),
        ("secret_key='wJalrXUtnFEMI'", "wJalrXUtnFEMI"),
        (f"key: {key_text()}", key_text()[4:40]),
        (f"bare {key_text()[1:]}", key_text()[4:40]),
    ],
)
def test_secrets_become_dots(text: str, secret: str) -> None:
    assert secret in text
    assert secret not in mask(text)
    assert "••" in mask(text)


@pytest.mark.parametrize(
    "text",
    [
        "bafyreigbvthnhs3l7bqgqgcn4y3tzvtt2j6yyqnzcktpzhvlrjvbvcvb3i",
        "https://host:8080/path?x=1",
        "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK",
        "12:30:45 done: a@b",
    ],
)
def test_what_is_no_secret_stays_as_it_is(text: str) -> None:
    assert mask(text) == text


def test_masking_a_long_text_takes_no_time_to_speak_of() -> None:
    for text in ("a" * 200_000, "://" * 50_000, "password=" * 20_000, "gCY" * 60_000):
        assert len(mask(text)) > 0


@pytest.mark.shows("url")
@pytest.mark.parametrize("formatter", [JSONFormatter(), TextFormatter()])
async def test_a_secret_in_a_job_or_in_an_error_reaches_no_log(
    formatter: logging.Formatter,
) -> None:
    class Leaky(Hands):
        async def stat(self, task: Stat, context: Context) -> Any:
            raise OSError(f"PUT {URL} timed out")

        async def mark(self, task: Mark, context: Context) -> Any:
            raise ValueError(key_text())

    hands = Leaky()
    with logged(formatter) as stream:
        async with (
            Transactor(MemoryStore(), [FILE], observers=[Logs()]) as transactor,
            Scheduler(transactor, {Stat: hands.stat, Mark: hands.mark}),
        ):
            await transactor.send(FILE, Added(URL, key_text()))
            while "raised" not in stream.getvalue():
                await transactor.clock.sleep_until(transactor.clock.now() + 5)
        try:
            raise RuntimeError(URL)
        except RuntimeError:
            logging.getLogger("stmflow.engine").exception("while uploading to %s", URL)
    text = stream.getvalue()
    assert "OSError" in text
    assert [secret for secret in (*SECRETS, key_text()[4:40]) if secret in text] == []


# --- formatters -----------------------------------------------------------------------------------


def test_a_record_of_others_is_one_object_too() -> None:
    with logged(JSONFormatter()) as stream:
        logging.getLogger("stmflow.other").warning("two\nlines \x1b[31m %s", "x")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["message"] == "two\nlines \x1b[31m x"
    assert "\x1b" not in line


def test_text_for_people_is_one_line_without_control_characters() -> None:
    with logged(TextFormatter()) as stream:
        try:
            raise RuntimeError("evil\x1b[31m")
        except RuntimeError:
            logging.getLogger("stmflow.other").exception("two\nlines")
    (line,) = stream.getvalue().splitlines()
    assert line.isprintable()
    assert "RuntimeError" in line


@pytest.mark.shows("url")
def test_configure_sends_everything_to_one_stream() -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    before = root.level
    handler = configure(json=True, level="warning", stream=stream)
    try:
        logging.getLogger("anything").warning("see %s", URL)
        logging.getLogger("anything").info("not this")
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    (line,) = lines(stream)
    assert (line["level"], line["logger"]) == ("warning", "anything")
    assert SIGNATURE not in stream.getvalue()
    with pytest.raises(ValueError, match="Unknown level"):
        configure(level="loud", stream=stream)
    assert not [each for each in root.handlers if getattr(each, "stream", None) is stream]
