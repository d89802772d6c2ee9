"""The backend on S3 or anything that speaks its protocol, by obstore.

Endpoint, region and credentials come from the standard ``AWS_*`` environment variables and from nowhere else.
Exclusive creation is a PUT with ``If-None-Match: *``; uploads carry a SHA-256 that the server verifies.
"""

import os
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError
from obstore.store import S3Store

from storage.errors import CommitConflictError, MissingDataError, StorageError
from storage.layout import check_relative

__all__ = ["S3Backend"]

_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)
_UPLOADS = 8
"""Files under way at once: enough to hide latency, few enough not to starve the training beside it."""


class S3Backend:
    """A prefix of a bucket."""

    def __init__(self, location: str) -> None:
        bucket, _, prefix = location.removeprefix("s3://").partition("/")
        if not bucket:
            raise StorageError(
                f"Expected s3://bucket/prefix; got {location!r}", "change storage.root in the configuration"
            )
        self.location = location.rstrip("/")
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
        self._store = S3Store(
            bucket,
            prefix=prefix.strip("/") or None,
            checksum_algorithm="SHA256",
            client_options={"allow_http": endpoint.startswith("http://")},
        )

    def probe(self) -> None:
        key = f"probe-{secrets.token_hex(8)}"
        self.create(key, b"one")
        try:
            self.create(key, b"two")
        except CommitConflictError:
            return
        finally:
            self.remove(key)
        raise StorageError(
            f"The S3 server of {self.location} ignores If-None-Match: expected 412 for an object that exists, it was "
            "overwritten. Two processes could commit one output",
            "use a server with conditional writes (AWS S3, MinIO, Ceph and R2 have them) or a disk, then d3po init",
        )

    def get(self, key: str) -> bytes:
        with self._speaking_errors(key):
            return bytes(obstore.get(self._store, check_relative(key)).bytes())

    def size(self, key: str) -> int:
        with self._speaking_errors(key):
            return int(obstore.head(self._store, check_relative(key))["size"])

    def put(self, key: str, data: bytes) -> None:
        with self._speaking_errors(key):
            obstore.put(self._store, check_relative(key), data)

    def create(self, key: str, data: bytes) -> None:
        for pause in _PAUSES:
            try:
                with self._speaking_errors(key):
                    obstore.put(self._store, check_relative(key), data, mode="create")
                return
            except CommitConflictError as conflict:
                try:
                    if self.get(key) == data:
                        return  # a PUT whose first answer was lost, and which was sent again, meets its own object
                except MissingDataError:
                    time.sleep(pause)  # another's PUT was under way (409) and came to nothing: try again
                    continue
                raise conflict from None
        raise StorageError(
            f"S3 says that {self.location}/{key} exists and that it does not", "d3po run CONFIG, to try again"
        )

    def keys(self, prefix: str) -> list[str]:
        with self._speaking_errors(prefix):
            return sorted(item["path"] for batch in obstore.list(self._store, prefix or None) for item in batch)

    def children(self, prefix: str) -> list[str]:
        with self._speaking_errors(prefix):
            found = obstore.list_with_delimiter(self._store, prefix or None)
        paths = [*found["common_prefixes"], *(item["path"] for item in found["objects"])]
        return sorted({path.rstrip("/").rsplit("/", 1)[-1] for path in paths})

    def move_in(self, folder: Path, prefix: str) -> None:
        files = sorted(path for path in folder.rglob("*") if path.is_file())

        def upload(path: Path) -> None:
            key = f"{check_relative(prefix)}/{path.relative_to(folder).as_posix()}"
            with self._speaking_errors(key):
                obstore.put(self._store, key, path)

        with ThreadPoolExecutor(_UPLOADS) as pool:
            list(pool.map(upload, files))

    def remove(self, prefix: str) -> None:
        keys = [*self.keys(prefix), check_relative(prefix)]
        with self._speaking_errors(prefix):
            obstore.delete(self._store, keys)

    def local_path(self, key: str) -> Path | None:
        return None

    @contextmanager
    def _speaking_errors(self, key: str) -> Iterator[None]:
        """Turn the client's errors into ours, which name the object and what to look at."""
        where = f"{self.location}/{key}"
        try:
            yield
        except (AlreadyExistsError, PreconditionError):
            raise CommitConflictError(f"{where} exists already, with other content") from None
        except (FileNotFoundError, NotFoundError) as error:
            if "NoSuchBucket" in str(error):
                raise StorageError(
                    f"The bucket of {where} does not exist", "create the bucket, then d3po init"
                ) from None
            raise MissingDataError(f"There is no object {where}") from None
        except BaseError as error:
            cause = str(error).split("Debug source")[0].strip()
            raise StorageError(
                f"S3 refused or did not answer for {where}: {cause}",
                "check AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, then d3po run",
            ) from error
