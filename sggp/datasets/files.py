"""Where a data file comes from: the folder `SGGP_DATA_DIR`, or a download whose SHA-256 is checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sggp.errors import DataFileError, missing_extra

ENVIRONMENT_VARIABLE = "SGGP_DATA_DIR"
_UCI_COMMIT = "f0737523712fe66a1640e4b980b927e8490b58eb"
_UCI_SOURCE = f"https://raw.githubusercontent.com/treforevans/uci_datasets/{_UCI_COMMIT}/uci_datasets"


@dataclass(frozen=True)
class Source:
    """Where a file can be downloaded, and the SHA-256 it must have."""

    url: str
    sha256: str


_UCI_SHA256 = {
    "bike/data": "411f76ae426c0e348a2629dcf6b3b29102c7db465eae780a3454c39db1dfac4f",
    "bike/test_mask": "cf13dc25e80c03019cf2b01666f9cc29b03ea222f5c519536023ea56669bf337",
    "concrete/data": "542c5d9a0d301bdb47550280398dcbbe2fb8404631fc945de1ea6df9ade741c6",
    "concrete/test_mask": "fae0926c655e4f9fb5669d0dbf2226bd8ff7daaadbd376adb8f32eac6f752e7e",
    "elevators/data": "e39bc18a80ec3611e4fd76d0f86ee377e96ba21b568b9997576d538dafe56b7b",
    "elevators/test_mask": "9fe662eacca95ae2c9301cbc4c4134e55d58e903cb0cfb683771ffdd2d248eb5",
    "energy/data": "431b6df04243db782bbcd45e408373a654334496ebe5d9c9985ab2e826a39f51",
    "energy/test_mask": "217df2cd4cabf818390e26a65384ea113c95b75bd687787a37ed2f87f28c9bb8",
    "keggdirected/data": "51b7bb56e3f3eae36273cdd5a549c042bdf0ec10948a6f8e6b01a1d6912212cd",
    "keggdirected/test_mask": "b8a7fc902444fdbc5866e8bf314e4778a303d675ef5267c83c5c25b70dacd357",
    "pol/data": "1c16126352954571e78f52d5a9d1b947a38655885d7cadd9407a4c9615fe4e04",
    "pol/test_mask": "c5540259aabe58f5c7a534ed6f5141f8c1157d5de592e45884b7fced6091e981",
    "protein/data": "f709d0107c3ee90ab019b9e5d77fc2ae182158958cb70b1903236a51334fd01b",
    "protein/test_mask": "22afe05e8d17c428558d78a77efeecc08d58004b6c95741d1c533c3207c69fe9",
    "wine/data": "e2ca3346651ddb43fbc6a1355e70e74b7ce68f93059e04405e9cb749c219eae2",
    "wine/test_mask": "df80c2a700eafb42230991dd7a94c08d47baea55dde125a0a0dcae08964d4559",
    "yacht/data": "88ec8ea1a979ab0628a54392822c60b3699ea22541e912e83246f7d49f5adad1",
    "yacht/test_mask": "2f6d6b091146887589db66073317b8485e853d27e664b99b8b402ad57ba4a936",
}

SOURCES: Mapping[str, Source] = {
    f"uci/{name}.csv.gz": Source(f"{_UCI_SOURCE}/{name}.csv.gz", sha256)
    for name, sha256 in _UCI_SHA256.items()
}


def data_file(relative: str, *, cache: str | os.PathLike[str] | None = None) -> Path:
    """Path of a data file, e.g. "uci/pol/data.csv.gz".

    Args:
        relative: path below `SGGP_DATA_DIR`.
        cache: folder for downloads; default the user's cache folder of this system.

    Raises:
        DataFileError: it is in neither place, or the download failed or has another SHA-256.
        MissingExtra: it can be downloaded, but pooch is not installed.
    """
    folder = os.environ.get(ENVIRONMENT_VARIABLE)
    if folder:
        local = Path(folder) / relative
        if local.is_file():
            return local
    source = SOURCES.get(relative)
    if source is None:
        where = (
            f"it is not in {ENVIRONMENT_VARIABLE}={folder}"
            if folder
            else f"{ENVIRONMENT_VARIABLE} is not set"
        )
        raise DataFileError(
            f"{relative} has no download with a known checksum and {where}. Put the file there, or set the variable to "
            "the folder that has it."
        )
    return _download(relative, source, cache)


def _download(relative: str, source: Source, cache: str | os.PathLike[str] | None) -> Path:
    try:
        import pooch  # an extra
    except ImportError as error:
        instead = f", or set {ENVIRONMENT_VARIABLE} to a folder that has the file"
        raise missing_extra(f"the download of {relative} needs pooch", "data", error, instead) from error
    target = (Path(cache) if cache is not None else Path(pooch.os_cache("sggp"))) / relative
    try:
        checked = f"sha256:{source.sha256}"
        found = pooch.retrieve(source.url, checked, fname=target.name, path=target.parent, progressbar=False)
    except (OSError, ValueError) as error:
        raise DataFileError(
            f"could not download {source.url} with the expected SHA-256: {error}. Try again, or set "
            f"{ENVIRONMENT_VARIABLE} to a folder that has {relative}."
        ) from error
    return Path(found)
