"""Objects of one bucket: listed, got, put, and put on the condition that they are not there yet.

Every request goes through one function that the open warehouse gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isthmus.model.errors import Busy, Missing, WarehouseError
from isthmus.warehouses.s3_errors import CONFLICTS

PART_BYTES = 16 * 1024 * 1024
WHOLE_BYTES = 8 * 1024 * 1024
"""Up to this a file is put in one request; from there in parts, which nobody sees before they are put together."""
AT_ONCE = 8

Send = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Listing:
    """What lies under a prefix, in the order of the keys: keys with their sizes, and the folders of the next level."""

    sizes: dict[str, int]
    folders: tuple[str, ...] = ()


class Bucket:
    """The requests, with what their answers mean. Raises WarehouseErrors."""

    def __init__(self, name: str, send: Send) -> None:
        self.name, self._send = name, send

    def list(self, prefix: str, *, folders: bool = False, limit: int | None = None) -> Listing:
        """What lies under a prefix; with `folders` only its own level, and the names of those below."""
        sizes: dict[str, int] = {}
        below: list[str] = []
        options: dict[str, Any] = {"Prefix": prefix} | ({"Delimiter": "/"} if folders else {})
        while True:
            if limit is not None:
                options["MaxKeys"] = min(1000, limit)
            page = self._send("list_objects_v2", **options)
            sizes |= {each["Key"]: each["Size"] for each in page.get("Contents", ())}
            below += [each["Prefix"] for each in page.get("CommonPrefixes", ())]
            if not page.get("IsTruncated") or (limit is not None and len(sizes) + len(below) >= limit):
                return Listing(sizes, tuple(below))
            options["ContinuationToken"] = page["NextContinuationToken"]

    def get(self, key: str) -> bytes | None:
        """The content of an object, None if it is not there."""
        try:
            return bytes(self._send("get_object", Key=key)["Body"])
        except Missing as e:
            if e.code == "NoSuchKey":
                return None
            raise

    def size(self, key: str) -> int | None:
        return self.list(key, limit=1).sizes.get(key)

    def put(self, key: str, content: bytes) -> None:
        self._send("put_object", Key=key, Body=content)

    def put_new(self, key: str, content: bytes) -> bool:
        """Put an object on the condition that there is none. False: somebody else was faster."""
        try:
            self._send("put_object", Key=key, Body=content, IfNoneMatch="*")
        except Busy as e:
            if e.code in CONFLICTS:
                return False
            raise
        return True

    def copy(self, key: str, to: str) -> bool:
        """Copy an object inside the bucket, without its content passing here. False: it is not there."""
        try:
            self._send("copy_object", Key=to, CopySource={"Bucket": self.name, "Key": key})
        except Missing as e:
            if e.code == "NoSuchKey":
                return False
            raise
        return True

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are not there are as good as deleted."""
        left = list(keys)
        for start in range(0, len(left), 1000):
            some = [{"Key": key} for key in left[start : start + 1000]]
            self._send("delete_objects", Delete={"Objects": some, "Quiet": True})


@dataclass
class Upload:
    """A file on its way into the bucket: prepared where nobody sees it, then shown at once under its key."""

    bucket: Bucket
    path: Path
    key: str
    size_bytes: int = 0
    _upload_id: str = ""
    _parts: list[dict[str, Any]] = field(default_factory=list)

    def start(self) -> None:
        self.size_bytes = self.path.stat().st_size
        if self.size_bytes > WHOLE_BYTES:
            answer = self.bucket._send("create_multipart_upload", Key=self.key)
            self._upload_id = answer["UploadId"]

    def parts(self) -> list[int]:
        """The numbers of the parts to be put, none for a small file."""
        return [] if not self._upload_id else list(range(1, -(-self.size_bytes // PART_BYTES) + 1))

    def put_part(self, number: int) -> None:
        with self.path.open("rb") as file:
            file.seek((number - 1) * PART_BYTES)
            body = file.read(PART_BYTES)
        place = {"Key": self.key, "UploadId": self._upload_id, "PartNumber": number}
        answer = self.bucket._send("upload_part", **place, Body=body)
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"]})

    def show(self) -> None:
        if not self._upload_id:
            self.bucket.put(self.key, self.path.read_bytes())
            return
        parts = sorted(self._parts, key=lambda part: part["PartNumber"])
        together = {"Parts": parts}
        self.bucket._send("complete_multipart_upload", Key=self.key, UploadId=self._upload_id, MultipartUpload=together)
        self._upload_id = ""

    def give_up(self) -> None:
        """Throw away what was prepared. What cannot be now, the bucket's own rule does after a day."""
        if self._upload_id:
            with suppress(WarehouseError):
                self.bucket._send("abort_multipart_upload", Key=self.key, UploadId=self._upload_id)


def prepare(uploads: Iterable[Upload]) -> None:
    """Put the parts of all uploads, several at once. After an error nothing of them is left, as far as can be."""
    started = list(uploads)
    if not started:
        return
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(Upload.start, started))
            wanted = [(upload, number) for upload in started for number in upload.parts()]
            list(pool.map(lambda each: each[0].put_part(each[1]), wanted))
    except BaseException:
        for upload in started:
            upload.give_up()
        raise


def show(uploads: Iterable[Upload]) -> None:
    """Have all of them appear under their keys."""
    if waiting := list(uploads):
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(Upload.show, waiting))
