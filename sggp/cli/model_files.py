"""Model files of `sggp fit`: an estimator's own file, which also says the columns of its table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sggp.errors import DataFileError
from sggp.estimator import GPRegressor
from sggp.estimator.storage import save_estimator, saved_table

_AGAIN = "fit it again"


@dataclass(frozen=True)
class SavedModel:
    """A model with the names of its columns.

    Attributes:
        target: the column that is predicted. features: those it is predicted from.
        model: the estimator, which `GPRegressor.load` gives, too.
    """

    target: str
    features: list[str]
    model: GPRegressor


def save_model(path: Path, saved: SavedModel) -> None:
    """Write a fitted model of one target to `path`."""
    save_estimator(path, saved.model, {"target": saved.target, "features": saved.features})


def load_model(path: Path) -> SavedModel:
    """Read what `save_model` wrote, or an older file.

    Raises:
        DataFileError: the file is missing, damaged or another.
    """
    model = GPRegressor()
    table = saved_table(path, model, _AGAIN)
    features = table.get("features")
    if not isinstance(features, list) or len(features) != model.n_features_in_ or "target" not in table:
        raise DataFileError(f"{path} does not name the columns it is of; {_AGAIN}.")
    return SavedModel(table["target"], features, model)
