"""The columns of a big index, kept in a file beside its CSV, so that it opens at once.

The rule: a cache is used if it was made from the very bytes that the CSV has now, with the same
class names, in the same folder, by the same layout, and if its own bytes have the digest that was
written with them. In every other case (changed, copied from elsewhere, cut, damaged, made by
another version) the CSV is read, and the cache is written anew. One that cannot be written or read
is no error: the index is only slower to open.

The file is an Arrow IPC file with one batch, followed by the 32 bytes of its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import pyarrow as pa

from videokd.data.index.records import SCHEMA, Records
from videokd.data.readers import READERS
from videokd.files import written_beside
from videokd.types import ClassNames

_LAYOUT = 1
"""Counts up when `SCHEMA`, or what the columns mean, changes."""

_KEY = b"videokd.index"
_NUM_DIGEST_BYTES = 32


def cache_path(index_path: Path) -> Path:
    """Where the cache of an index lies."""
    return index_path.with_suffix(".cache.arrow")


def cache_key(data: bytes, folder: Path, classes: ClassNames) -> bytes:
    """All that the columns were made of.

    Args:
        data: the CSV.
        folder: absolute; where relative paths start.
        classes: the names that the label numbers stand for.
    """
    parts = {
        "layout": _LAYOUT,
        "csv": hashlib.sha256(data).hexdigest(),
        "classes": list(classes),
        "folder": str(folder),
        "readers": sorted(READERS),
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest().encode()


def read_cache(path: Path, key: bytes) -> Records | None:
    """The columns that were written under `key`; None where there are none that can be trusted."""
    try:
        # Read, not mapped: a file that another process cuts or replaces would end this one.
        data = path.read_bytes()
        content = memoryview(data)[:-_NUM_DIGEST_BYTES]
        if hashlib.sha256(content).digest() != data[-_NUM_DIGEST_BYTES:]:
            return None
        with pa.ipc.open_file(pa.py_buffer(content)) as reader:
            if (reader.schema.metadata or {}).get(_KEY) != key:
                return None
            batch = reader.get_batch(0)
        batch.validate(full=True)
        return Records(batch.replace_schema_metadata(None))
    except (OSError, ValueError, pa.ArrowException):
        return None


def write_cache(path: Path, key: bytes, records: Records) -> None:
    """Lay the columns beside their CSV, whole or not at all."""
    schema = SCHEMA.with_metadata({_KEY: key})
    try:
        with written_beside(path) as part:
            with pa.OSFile(str(part), "wb") as file, pa.ipc.new_file(file, schema) as writer:
                writer.write_batch(records.batch.replace_schema_metadata(schema.metadata))
            with part.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
            with part.open("ab") as file:
                file.write(digest)
    except OSError as error:
        logging.getLogger(__name__).info("%s: not written (%s)", path, error)
