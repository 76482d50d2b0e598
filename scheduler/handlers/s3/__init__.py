"""S3: look, prove, sign, put, watch and delete content-addressed objects.

    async with Bucket("blobs", endpoint=url, access_key=key, secret_key=Secret(text)) as bucket:
        handlers = bucket.handlers()

An object's key is the digest of its bytes, whatever codec a link reads them with. A look never
proves less than size and sha2-256: by the checksum that the server stored, else by reading the
bytes. Absent, denied and unavailable are three answers: only the first is an outcome.

Failures by name; `detail` holds codes and sizes, never a server's message, a URL or a secret:

    Unavailable      nobody answered (SAFE if nothing was sent), or 5xx (IDEMPOTENT)
    TimedOut         the attempt's time ran out (the same)
    Throttled        the server asks for patience
    Unauthorized     the credentials have run out
    Skewed           our clock and the server's differ by too much; nothing was done (SAFE)
    Denied           403: whether the object exists is unknown
    NoBucket         the bucket does not exist
    Absent           404 to a task that needs the object
    Conflict         412 or 409
    Busy, Changed    another writer was at the object; tried again
    Mismatch         the object is not what link and size say
    Corrupt          the bytes to put are not what link and size say
    Unprovable       the link's hash is not sha2-256
    BadSize          no single put takes that size (0 to 5 GiB)
    TooLate, TooFar  no URL can be signed for that deadline
    Refused          any other 4xx, a redirect, a request that cannot be made
    Watching         no failure: the watch goes on in the next attempt

Sources: Amazon S3 API Reference, PutObject, HeadObject and Error Responses; Amazon S3, Checking
object integrity; AWS Signature Version 4, Authenticating Requests: Using Query Parameters.
"""

from scheduler.handlers.s3.bucket import Bucket
from scheduler.handlers.s3.client import Secret, classify
from scheduler.handlers.s3.proof import Source, object_key
from scheduler.handlers.s3.tasks import POLICIES, Delete, Presign, Put, Stat, Verify, Watch

__all__ = [
    "POLICIES",
    "Bucket",
    "Delete",
    "Presign",
    "Put",
    "Secret",
    "Source",
    "Stat",
    "Verify",
    "Watch",
    "classify",
    "object_key",
]
