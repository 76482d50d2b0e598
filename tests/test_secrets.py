"""The search for secrets finds those that are planted, and names them without showing them."""

from __future__ import annotations

import pytest

from tests.project import ROOT

pytest_plugins = ("pytester",)

PLANTED = {
    "printed": "print(KEY.format())",
    "as an error": "print(KEY._secret[:32].hex(), file=sys.stderr)",
    "logged": "logging.getLogger('any').warning('%s', SECRET.reveal())",
    "in base64": "print(base64.b64encode(SECRET.reveal().encode()))",
    "read by the test": "print(SECRET.reveal()); capsys.readouterr()",
    "said by a process": (
        "subprocess.run([sys.executable, '-c', f'print({SECRET.reveal()!r})'], capture_output=True)"
    ),
    "said by a command": (
        "click.testing.CliRunner().invoke(click.Command('c', callback=lambda:"
        " print(SECRET.reveal())))"
    ),
    "in a database": "(tmp_path / 'jobs.db').write_bytes(bytes(500) + KEY._secret[:32])",
    "in a key file for all": "(tmp_path / 'key').write_text(KEY.format())",
    "signed": "logging.getLogger('any').error('https://b/?X-Amz-Signature=%s', 'ab' * 32)",
}
HEAD = """
import base64, logging, subprocess, sys
import click, click.testing, pytest
from capabilities.principal import Signer
from scheduler.handlers.s3 import Secret

KEY, SECRET = Signer.generate(), Secret("tr0ub4dor-and-3")
"""


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A test session of its own, in a process of its own."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeconftest(
        "from tests.secrets import SECRETS, Watch\n"
        "def pytest_configure(config):\n"
        "    config.pluginmanager.register(Watch(SECRETS))\n"
    )
    return pytester


@pytest.mark.shows("key", "secret")
def test_what_is_planted_is_found_and_only_its_name_is_told(inner: pytest.Pytester) -> None:
    tests = [
        f"def test_{number}(tmp_path, capsys):\n    {body}\n"
        for number, body in enumerate(PLANTED.values())
    ]
    inner.makepyfile(HEAD + "\n".join(tests))
    found = inner.runpytest_subprocess("-q", "-p", "no:cacheprovider")
    found.assert_outcomes(failed=len(PLANTED))
    found.stdout.fnmatch_lines(["*secrets were let out:*", "secret: S3, in read", "key: did:key:*"])


def test_what_is_harmless_or_meant_passes(inner: pytest.Pytester) -> None:
    inner.makepyfile(
        HEAD
        + """
def test_names(tmp_path, capsys):
    print(KEY, SECRET, repr(KEY), [SECRET])
    KEY.save(tmp_path / "key")

@pytest.mark.shows("secret")
def test_meant():
    print(SECRET.reveal())
"""
    )
    found = inner.runpytest_subprocess("-q", "-p", "no:cacheprovider")
    found.assert_outcomes(passed=2)
