"""What may be printed of a text that somebody else has written."""

from __future__ import annotations

import pytest

from stmflow.cli.output import clean, json_text, masked

URL = "https://s3.test/blobs/key?X-Amz-Date=1&X-Amz-Signature=0a1b2c&X-Amz-SignedHeaders=host"
DOTS = "https://s3.test/blobs/key?X-Amz-Date=1&X-Amz-Signature=••••••&X-Amz-SignedHeaders=host"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (URL, DOTS),
        (f'{{url: "{URL}"}}', f'{{url: "{DOTS}"}}'),
        ("?x-amz-security-token=abc/+=", "?x-amz-security-token=••••••"),
        ("X-Amz-Signature=", "X-Amz-Signature="),
        ("X-Amz-SignedHeaders=host", "X-Amz-SignedHeaders=host"),
        ("a signature", "a signature"),
    ],
)
def test_a_signed_url_is_shown_without_its_signature(text: str, shown: str) -> None:
    assert masked(text) == clean(text) == shown


def test_json_is_masked_unless_it_is_for_whom_the_url_was_made() -> None:
    assert json_text({"url": URL}) == f'{{"url":"{DOTS}"}}'
    assert json_text({"url": URL}, whole=True) == f'{{"url":"{URL}"}}'
