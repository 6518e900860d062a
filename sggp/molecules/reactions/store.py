"""Products that were made once, kept in a file for the next time."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from sggp.checks import as_path
from sggp.errors import DataFileError

_LOGGER = logging.getLogger(__name__)
_ASKED_AT_ONCE = 500
_WAIT = 30.0  # seconds for another process that writes


class Kept(NamedTuple):
    """A product as it is kept: its SMILES, or the reason why there is none, and its sparse fingerprint as bytes."""

    smiles: str
    reason: str
    columns: bytes
    counts: bytes


def product_key(smarts: str, reagents: Sequence[str], which: int) -> bytes:
    """What a product is made of, as 16 bytes: independent of the lists and of their order."""
    plain = json.dumps([smarts, *reagents, which])
    return hashlib.blake2b(plain.encode(), digest_size=16).digest()


class ProductStore:
    """A SQLite file of products by `product_key`; several processes may use one.

    Args:
        folder: where files are kept; made where it is missing.
        settings: what the products depend on beside the key: fingerprint, filters, versions. Each has its own file,
            which is begun anew where it is damaged: what is lost can be made again.

    Raises:
        DataFileError: the folder or the file cannot be used.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: str) -> None:
        place = as_path(folder, "cache")
        digest = hashlib.blake2b(settings.encode(), digest_size=12).hexdigest()
        self.path = Path(place, f"products-{digest}.db")
        try:
            place.mkdir(parents=True, exist_ok=True)
            try:
                self._begin()
            except sqlite3.DatabaseError as error:
                if isinstance(
                    error, sqlite3.OperationalError
                ):  # locked, no room: nothing is wrong with the file
                    raise
                _LOGGER.warning("%s: %s; begun anew", self.path, error)
                for name in ("", "-wal", "-shm"):
                    Path(f"{self.path}{name}").unlink(missing_ok=True)
                self._begin()
        except (OSError, sqlite3.Error) as error:
            raise DataFileError(f"cannot keep products in {self.path}: {error}.") from error

    def _begin(self) -> None:
        with closing(self._connect()) as file, file:
            file.execute(
                "CREATE TABLE IF NOT EXISTS product "
                "(key BLOB PRIMARY KEY, smiles TEXT, reason TEXT, columns BLOB, counts BLOB) WITHOUT ROWID"
            )

    def _connect(self) -> sqlite3.Connection:
        file = sqlite3.connect(self.path, timeout=_WAIT)
        file.execute("PRAGMA journal_mode=WAL")
        file.execute("PRAGMA synchronous=OFF")  # what is lost can be made again
        return file

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Kept]:
        """Those of the products that are kept."""
        found: dict[bytes, Kept] = {}
        with closing(self._connect()) as file:
            for start in range(0, len(keys), _ASKED_AT_ONCE):
                some = keys[start : start + _ASKED_AT_ONCE]
                marks = ",".join("?" * len(some))
                rows = file.execute(f"SELECT * FROM product WHERE key IN ({marks})", some)
                found |= {key: Kept(*rest) for key, *rest in rows}
        return found

    def put(self, products: Iterable[tuple[bytes, Kept]]) -> None:
        """Keep products; those that are kept already stay."""
        with closing(self._connect()) as file, file:
            rows = ((key, *kept) for key, kept in products)
            file.executemany("INSERT OR IGNORE INTO product VALUES (?, ?, ?, ?, ?)", rows)
