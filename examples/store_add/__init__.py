"""store/add for a storage service: the first workflow that runs on stmflow.

`app` is what the command line asks for: `stmflow --app examples.store_add:app`.
"""

from __future__ import annotations

from examples.store_add.quota import local, remote
from examples.store_add.service import QUOTA_BYTES, Service, service

app = local(limit=QUOTA_BYTES)

__all__ = ["Service", "app", "local", "remote", "service"]
