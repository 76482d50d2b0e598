"""What is really in the bucket: the example's own S3 server, asked by somebody else's client."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from scheduler.handlers.s3 import object_key
from stmflow import CID


@dataclass(frozen=True, slots=True)
class Contents:
    """The objects of a bucket."""

    s3: Any
    bucket: str

    @classmethod
    def below(cls, data: Path) -> Self:
        """The bucket of the service whose data is in this folder."""
        (identity,) = data.rglob("s3.json")
        (keys,) = json.loads(identity.read_text())["identities"][0]["credentials"]
        s3 = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{(identity.parent / 'port').read_text().strip()}",
            region_name="us-east-1",
            aws_access_key_id=keys["accessKey"],
            aws_secret_access_key=keys["secretKey"],
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )
        (bucket,) = (found["Name"] for found in s3.list_buckets()["Buckets"])
        return cls(s3, bucket)

    def lacks(self, stored: Iterable[Mapping[str, Any]]) -> list[str]:
        """Of these `{"link", "size"}`, those whose very bytes are not there, and why not."""
        return [f"{item['link']}: {reason}" for item in stored if (reason := self._wrong(**item))]

    def _wrong(self, link: str, size: int) -> str | None:
        cid = CID.parse(link)
        try:
            data = self.s3.get_object(Bucket=self.bucket, Key=object_key(cid))["Body"].read()
        except ClientError as error:
            return str(error)
        if len(data) != size or sha256(data).digest() != cid.digest:
            return f"{len(data)} other bytes"
        return None
