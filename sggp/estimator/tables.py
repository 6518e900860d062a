"""Tables as users have them, checked as scikit-learn has it, and as numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gpytorch.kernels import Kernel
from scipy.sparse import issparse
from sklearn.utils import check_array, check_X_y
from sklearn.utils.validation import validate_data
from torch import Tensor

from sggp.arrays import fingerprint_rows
from sggp.checks import one_of
from sggp.errors import InputError, MemoryBudgetError, ShapeError
from sggp.estimator.columns import (
    MISSING,
    TableEncoder,
    as_numbers,
    is_frame,
    listing,
    missing,
    refuse_missing,
)
from sggp.estimator.modes.precomputed import is_precomputed
from sggp.fitting import FittedModel
from sggp.kernels import TanimotoDotProduct, TanimotoMinMax

DENSE_BYTES = 2**32
ROWS_AT_ONCE = 2**20
NUMBERS_AT_ONCE = 2**24
"""Of rows at once, but for 65,536 of them: predictions of many rows of few columns share more of their work."""

_ENCODED: dict[str, Any] = {"dtype": "numeric", "ensure_all_finite": "allow-nan"}


def as_array(values: Any) -> Any:
    """Tensors as arrays, those with gradients and of types that NumPy lacks among them; anything else as it is.

    Masked cells are missing: what lies under the mask is no value.
    """
    if isinstance(values, np.ma.MaskedArray):
        hidden = np.ma.getmaskarray(values)
        plain = values.data
        return np.where(hidden, np.nan, plain.astype(float)) if hidden.any() else plain
    if not isinstance(values, Tensor):
        return values
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def checked_training(estimator: Any, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray, TableEncoder | None]:
    """`validate_data` of a training table: X as numbers (n, d'), y (n,) or (n, t), and the encoder where one is needed.

    Sets `n_features_in_` and `feature_names_in_` of the estimator: those of X as given. Cells of a y of several columns
    may be NaN.

    Raises:
        ValueError, TypeError: what scikit-learn refuses; missing cells where `estimator.missing` is "refuse";
            what `TableEncoder` refuses; rows without any target.
    """
    one_of(estimator.missing, "missing", MISSING)
    X = dense_rows(X, estimator.kernel)
    estimator._labels = _labels(X)
    y, gaps = _without_gaps(as_numbers(y))
    if is_precomputed(estimator.kernel) or not _needs_encoding(X, estimator.missing):
        X, y = validate_data(estimator, X, y, multi_output=True, y_numeric=True, **_ENCODED)
        _refuse_missing(estimator, X)
        encoder = None
    else:
        validate_data(estimator, X, skip_check_array=True)
        encoder = TableEncoder(estimator.missing)
        numbers = encoder.fit_transform(X)
        X, y = check_X_y(numbers, y, multi_output=True, y_numeric=True, estimator=estimator)
    return X, y if gaps is None else np.where(gaps, np.nan, y), encoder


def checked_rows(estimator: Any, X: Any) -> np.ndarray:  # -> (q, d')
    """`validate_data` of rows for a fitted estimator, as the numbers that it was fitted to."""
    encoder, X = estimator.columns_, dense_rows(X, estimator.kernel)
    known, labels = getattr(estimator, "_labels", None), _labels(X)
    if known is not None and labels is not None and known != labels:
        raise InputError(
            f"the columns of X are {listing(labels)}; fit had {listing(known)}. Bring them into that order."
        )
    precomputed = is_precomputed(estimator.kernel)
    if encoder is None and not precomputed and _needs_encoding(X, "refuse"):
        encoder = TableEncoder.of_numbers(_names(estimator, estimator.n_features_in_))
    if encoder is None:
        gaps = True if precomputed else "allow-nan"
        X = validate_data(estimator, X, reset=False, dtype="numeric", ensure_all_finite=gaps)
        _refuse_missing(estimator, X)
        return X
    if len(getattr(X, "shape", ()) or np.asarray(X).shape) != 2:
        return validate_data(estimator, X, reset=False)  # which refuses it
    validate_data(estimator, X, reset=False, skip_check_array=True)
    return check_array(encoder.transform(X), estimator=estimator, input_name="X")


def dense_rows(X: Any, kernel: Any) -> Any:
    """A sparse matrix as an array, of bytes where the kernel is one on counts and they fit; RDKit's vectors as one.

    Sparse columns of a frame become columns as others.

    Raises:
        MemoryBudgetError: it would take more than 4 GiB. ShapeError: it has one dimension. DtypeError: vectors that are
            not folded. InputError: a table with two columns of one name.
    """
    if not issparse(X):
        _refuse_repeated_names(X)
        return fingerprint_rows(_dense_columns(X))
    if X.ndim != 2:
        raise ShapeError(f"expected a 2D array, got a sparse X of shape {X.shape}: use X.reshape((-1, 1)).")
    X = X.tocsr()
    parts = kernel.modules() if isinstance(kernel, Kernel) else ()
    counts = kernel == "tanimoto" or any(
        isinstance(part, TanimotoMinMax | TanimotoDotProduct) for part in parts
    )
    if (
        counts
        and X.dtype.kind in "iufb"
        and ((X.data == np.floor(X.data)) & (X.data >= 0) & (X.data <= 255)).all()
    ):
        X = X.astype(np.uint8)
    _check_dense_size(X.shape[0], X.shape[1], X.dtype.itemsize)
    return X.toarray()


def _check_dense_size(rows: int, columns: int, itemsize: int) -> None:
    needed = rows * columns * itemsize
    if needed > DENSE_BYTES:
        raise MemoryBudgetError(
            f"the sparse X of {rows} rows and {columns} columns takes {needed / 2**30:.1f} GiB once dense, "
            "more than 4 GiB: predict in parts; fit fewer rows, or counts with a Tanimoto kernel, a byte each."
        )


def _dense_columns(X: Any) -> Any:
    """A frame with ordinary columns in the place of pandas' sparse ones; anything else as it is."""
    types = dict(zip(X.columns, X.dtypes, strict=True)) if is_frame(X) else {}
    dense = {name: kind.subtype for name, kind in types.items() if str(kind).startswith("Sparse[")}
    if not dense:
        return X
    _check_dense_size(len(X), len(dense), max(kind.itemsize for kind in dense.values()))
    return X.astype(dense)


def training_tensor(rows: np.ndarray) -> Tensor:  # (n, d)
    """Rows in float64 or, fingerprints, in bytes; where they are that, their own memory, read-only from then on."""
    if rows.dtype not in (np.uint8, np.float64):
        return torch.from_numpy(rows.astype(float))
    shared = torch.from_numpy(rows)
    rows.flags.writeable = False
    return shared


def told_columns(estimator: Any, model: FittedModel) -> dict[str, Any]:
    """What is told of columns: `unidentified` ones with the reason, and those `without_influence`.

    By the names that an encoded table has; by position where all columns are numbers.
    """
    encoder, result = estimator.columns_, model.fit
    if encoder is None:
        return {"unidentified": dict(result.unidentified), "without_influence": model.without_influence}
    reasons = {
        encoder.names[record.column]: record.reason
        if record.of is None
        else f"copy of {encoder.names[record.of]}"
        for record in result.unidentified_columns
    }
    return {"unidentified": reasons, "without_influence": [encoder.names[j] for j in model.without_influence]}


def listed_columns(estimator: Any, reasons: dict[Any, str]) -> str:
    """The `unidentified` columns of `told_columns` as text."""
    names = getattr(estimator, "feature_names_in_", None) if estimator.columns_ is None else None
    return ", ".join(f"{j if names is None else names[j]} ({reason})" for j, reason in reasons.items())


def _needs_encoding(X: Any, policy: str) -> bool:
    """Whether it has columns of anything but numbers, or such as may have to be filled in: all but bytes."""
    if is_frame(X):
        text = any(getattr(t, "kind", "O") not in "iufc" for t in X.dtypes)  # types of polars have no kind
        counts = all(isinstance(t, np.dtype) and t == np.uint8 for t in X.dtypes)
        return 0 not in X.shape and (text or (policy != "refuse" and not counts))
    try:
        array = np.asarray(X)
    except TypeError:  # an Arrow table whose columns share no type
        return True
    except ValueError:  # rows of different lengths: scikit-learn's to refuse, as all else that is no table
        return False
    return (
        array.ndim == 2
        and array.size > 0
        and array.dtype != np.uint8
        and array.dtype.kind in ("OUSmM" if policy == "refuse" else "OUSmMfiu")
    )


def _names(estimator: Any, columns: int) -> list[Any]:
    return [*getattr(estimator, "feature_names_in_", range(columns))]


def _labels(X: Any) -> list[Any] | None:
    """Names of a frame's columns that are not all text: scikit-learn compares those that are."""
    names = list(X.columns) if is_frame(X) else []
    return names if any(not isinstance(name, str) for name in names) else None


def _refuse_repeated_names(X: Any) -> None:
    names = [*X.columns] if is_frame(X) else [*getattr(X, "column_names", ())]
    if len(set(names)) < len(names):
        name, times = Counter(names).most_common(1)[0]
        raise InputError(
            f"{times} columns of X are named {name!r}: names must differ; rename them, or pass X.to_numpy()."
        )


def _refuse_missing(estimator: Any, X: np.ndarray) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        clean = X.dtype.kind != "f" or not np.isnan(X.sum())  # which makes no mask as large as the table
    if not clean and (gaps := np.isnan(X)).any():
        refuse_missing(_names(estimator, X.shape[1]), list(gaps.T), estimator.missing)


def _without_gaps(y: Any) -> tuple[Any, np.ndarray | None]:
    """Targets with something finite where cells of several columns are missing, and where they are; None if nowhere."""
    try:
        values = np.asarray(y)
        if values.ndim != 2 or values.shape[1] < 2 or values.dtype.kind not in "fO":
            return y, None
        gaps = missing(values.reshape(-1)).reshape(values.shape)
        values = np.where(gaps, 0.0, values).astype(float)
    except (TypeError, ValueError):
        return y, None  # scikit-learn's to refuse
    if not gaps.any():
        return y, None
    bare = np.flatnonzero(gaps.all(axis=1))
    if len(bare):
        listed = ", ".join(map(str, bare[:5])) + (", ..." if len(bare) > 5 else "")
        raise InputError(
            f"y contains NaN for every target in {len(bare)} rows ({listed}): leave these rows out."
        )
    empty = np.flatnonzero(gaps.all(axis=0))
    if len(empty):
        raise InputError(f"y contains NaN in every row of target {empty[0]}: leave it out.")
    return values, gaps


def joined(before: np.ndarray, further: np.ndarray) -> np.ndarray:
    """Rows and further rows, in the type of the first ones if that holds the others, else in one that holds both."""
    same = further.astype(before.dtype)
    return np.concatenate([before, same if np.array_equal(same, further) else further])


def in_blocks(function: Callable[[np.ndarray, slice], Any], rows: np.ndarray) -> Any:
    """What a function of checked rows (q, d) and where they stand gives, joined: an array (q, …), or a tuple of them.

    It sees blocks of 65,536 rows, more where columns are few: what it makes of them (copies in float64, sample paths)
    is held for one block, and rows that are mapped from a file are read as they come.
    """
    step = min(ROWS_AT_ONCE, max(65_536, NUMBERS_AT_ONCE // max(1, rows.shape[1])))
    cuts = [slice(start, start + step) for start in range(0, len(rows), step)]
    parts = [function(rows[cut], cut) for cut in cuts]
    if len(parts) == 1:
        return parts[0]
    return (
        tuple(map(np.concatenate, zip(*parts, strict=True)))
        if isinstance(parts[0], tuple)
        else np.concatenate(parts)
    )
