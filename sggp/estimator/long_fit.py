"""The seconds of a fit, and its checkpoint: what was learnt in one file, the solve in others beside it."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sggp.checks import as_path, finite_number
from sggp.errors import CheckpointError, DataFileError, InputError, NotConverged, SggpWarning
from sggp.estimator.storage import fit_parts, fit_values
from sggp.estimator.weights import RowNoise
from sggp.evidence.storage import evidence_parts, evidence_values, noise_model_parts
from sggp.files import check_target
from sggp.fitting import FittedModel, ModelSettings
from sggp.fitting.scaling import Scaling
from sggp.fitting.start import starting_point
from sggp.parallel import current
from sggp.persistence import read_content, rebuilding, write_content
from sggp.persistence.tree import pack
from sggp.posterior import Posterior
from sggp.posterior.kernel_values import describe_kernel
from sggp.posterior.storage import posterior_parts, posterior_values
from sggp.running import in_time, may_stop, stop_asked

KIND = "checkpoint of a fit"
_LEARNING = 0.5  # of the seconds
_LEAST_SOLVE = 0.1  # of the seconds, however long the rest took
_HASHED_ROWS = 65_536  # at once
_AGAIN = "start again without it"
Learnt = tuple[FittedModel, Any]
"""A model, and the noise variance that was known, as `sggp.estimator.weights.fit_weighted` gives them."""


@contextmanager
def as_before_if_it_fails(estimator: Any) -> Iterator[None]:
    """An estimator whose fit in the block fails or is interrupted has the attributes that it had before.

    Else it would predict by the posterior of one table in the units of another.
    """
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


class LongFit:
    """One fit: what each of its stages may take, and what goes on from a file.

    Args:
        max_seconds: of the whole fit from here on; None for no limit.
        checkpoint: the file of what was learnt; the solve of a target is in `checkpoint.solve`, of several targets in
            `checkpoint.solve0` and so on.

    Raises:
        InputError: no positive number of seconds. CheckpointError: a file that cannot be written.
    """

    def __init__(self, max_seconds: Any, checkpoint: str | os.PathLike[str] | None) -> None:
        self._begin, self._solving, self._targets = time.perf_counter(), 0.0, 1
        self.seconds = None if max_seconds is None else finite_number(max_seconds, "max_seconds")
        if self.seconds is not None and self.seconds <= 0:
            raise InputError(f"max_seconds must be positive, got {max_seconds!r}; None sets no limit.")
        self.cut: tuple[str, ...] = ()
        self._stopped = ""
        self.path = None if checkpoint is None else as_path(checkpoint, "checkpoint")
        if self.path is not None and current().first:
            try:
                check_target(self.path)
            except DataFileError as error:
                raise CheckpointError(f"checkpoint={self.path} cannot be used: {error}") from error

    def learn(
        self,
        learning: Callable[[], Learnt],
        settings: ModelSettings,
        of: Mapping[str, Any],
        draws: torch.Generator,
    ) -> Learnt:
        """What `learning` gives within its share of the seconds; or what the file holds, which then is no work at all.

        Args:
            settings: of the model. of: what the fit is of, by name; the file is refused where it was of another.
            draws: what the samples are drawn with: put where it was when the file was written.
        """
        belongs = {} if self.path is None else _fingerprints(of)
        content = None if self.path is None else current().shared(lambda: self._read(belongs))
        if content is not None:
            found = self._rebuilt(content, settings)
            draws.set_state(content["draws"])
            self.cut, used = tuple(content["cut"]), content["seconds"]
        else:
            with in_time(
                None if self.seconds is None else _LEARNING * self.seconds, "hyperparameters"
            ) as cut:
                found = learning()
            self.cut, used = tuple(cut), time.perf_counter() - self._begin
            if may_stop() and current().agreed(stop_asked() is not None):
                # the file would have it for the end of learning, and nobody would go on with that
                self._stopped, self.cut = stop_asked() or "another process", (*cut, "learning")
            else:
                self._write(
                    {"belongs": belongs, "draws": draws.get_state(), "cut": list(cut), "seconds": used}, found
                )
        self._solving, self._used = time.perf_counter(), used
        return found

    def limits(self, targets: int, column: int) -> dict[str, Any]:
        """Further arguments of `sggp.condition` for a target: a like share of the seconds left, and its file."""
        found: dict[str, Any] = {}
        if self.path is not None:
            name = f"{self.path.name}.solve{column if targets > 1 else ''}"
            found["checkpoint"] = self.path.with_name(name)
        if self.seconds is not None:
            left = self.seconds - self._used - (time.perf_counter() - self._solving)
            allowed = max(left, _LEAST_SOLVE * self.seconds) / (targets - column)
            found["max_seconds"] = current().agreed(allowed)
        return found

    def limits_of(self, targets: int) -> Callable[[int], dict[str, Any]]:
        """`limits`, of a column."""
        return partial(self.limits, targets)

    def tell_cut(self) -> None:
        """Warn of what of the learning was cut short, and by whom."""
        if self.cut:
            listed = ", ".join(self.cut)
            who = (
                f"stopped by {self._stopped}" if self._stopped else f"max_seconds={self.seconds:g} cut short"
            )
            then = "fit again" if self._stopped else "raise max_seconds"
            warnings.warn(
                f"{who}: {listed}. The best until then was kept; {then}.",
                NotConverged,
                stacklevel=3,
            )

    def _write(self, content: dict[str, Any], found: Learnt) -> None:
        if self.path is None or not current().first:
            return
        try:
            write_content(self.path, KIND, {**content, **_learnt_values(*found)})
        except DataFileError as error:  # a full disk must not cost what was learnt
            warnings.warn(f"{error} The fit goes on without a checkpoint.", SggpWarning, stacklevel=4)

    def _rebuilt(self, content: dict[str, Any], settings: ModelSettings) -> Learnt:
        try:
            with rebuilding(str(self.path), KIND, _AGAIN):
                return _learnt_parts(content, settings)
        except DataFileError as error:
            raise CheckpointError(f"checkpoint={self.path} cannot be used: {error}") from error

    def _read(self, belongs: dict[str, str]) -> dict[str, Any] | None:
        if self.path is None or not self.path.exists():
            return None
        try:
            content = read_content(self.path, KIND, again=_AGAIN)
        except DataFileError as error:
            raise CheckpointError(f"checkpoint={self.path} cannot be used: {error}") from error
        theirs = content["belongs"]
        different = [name for name in belongs if belongs[name] != theirs.get(name)]
        if different:
            verb = "differ" if len(different) > 1 else "differs"
            raise CheckpointError(
                f"checkpoint={self.path} was written for another fit: {', '.join(different)} {verb}. Repeat the data "
                f"and arguments of the first call, give another path, or delete {self.path.name} and "
                f"{self.path.name}.solve*."
            )
        return content


def described(
    settings: ModelSettings, X: np.ndarray, y: np.ndarray, noise: RowNoise, random_state: Any
) -> dict[str, Any]:
    """What a fit is of, by the names a user gave it.

    Args:
        X, y: the rows that are used.

    Raises:
        InputError: a kernel of a type that a file does not name.
    """
    kernel = settings.kernel
    if kernel is not None and not isinstance(kernel, str):
        start = starting_point(kernel, X, settings.blocks)
        kernel = [describe_kernel(start.kernel), repr(start.white_noise)]
    plain = ("optimizer", "num_samples", "num_features", "noise", "blocks", "solver")
    return {
        "X": X,
        "y": y,
        "kernel": kernel,
        "noise_variance": noise.variance,
        "sample_weight": noise.weights,
        **{name: repr(getattr(settings, name)) for name in plain},
        "normalize_y": settings.normalise,
        "random_state": random_state if isinstance(random_state, int | np.integer) else None,
    }


def _fingerprints(of: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name, value in of.items():
        given = value is None or isinstance(value, str | list)
        tree, tensors = pack(value) if given else ("array", {})
        digest = hashlib.sha256(json.dumps(tree, sort_keys=True).encode())
        if not given:
            _add_rows(digest, np.atleast_1d(value))
        for key in sorted(tensors):
            digest.update(f"{key} {tensors[key].dtype} {tuple(tensors[key].shape)}".encode())
            for part in tensors[key].split(_HASHED_ROWS) if tensors[key].ndim else [tensors[key]]:
                digest.update(part.contiguous().numpy().tobytes())
        found[name] = digest.hexdigest()
    return found


def _add_rows(digest: Any, rows: np.ndarray) -> None:
    """Type, shape and numbers of an array, whatever its order in memory, and whoever may write to it."""
    native = rows.dtype.newbyteorder("=")
    try:
        told = str(torch.from_numpy(np.empty(0, native)).dtype)
    except TypeError:  # longer than torch has them
        told = str(native)
    digest.update(f" {told} {rows.shape}".encode())
    for start in range(0, len(rows), _HASHED_ROWS):
        digest.update(np.ascontiguousarray(rows[start : start + _HASHED_ROWS], dtype=native).tobytes())


def _learnt_values(model: FittedModel, known_noise: Any) -> dict[str, Any]:
    """What was learnt as tensors and plain values."""
    posterior = model.fit.posterior
    return {
        **fit_values(model.fit),
        "scaling": dict(vars(model.scaling)),
        "without_influence": list(model.without_influence),
        "x_scale": model._x_scale,
        "values": model._values,
        "noise_model": evidence_values(model.noise_model),
        "selection": evidence_values(model.selection),
        "noise": model.settings.noise,
        "noise_variance": _plain(model.settings.noise_variance),
        "known_noise": _plain(known_noise),
        "posterior": None
        if posterior is None
        else posterior_values(posterior.process, posterior.data, posterior.solution),
    }


def _learnt_parts(content: dict[str, Any], settings: ModelSettings) -> Learnt:
    """What `_learnt_values` was given, under the settings of this call."""
    fit = fit_parts(content)
    if content["posterior"] is not None:
        fit = replace(fit, posterior=Posterior(*posterior_parts(content["posterior"])[:3]))
    model = FittedModel(
        replace(settings, noise=content["noise"], noise_variance=content["noise_variance"]),
        Scaling(**content["scaling"]),
        fit,
        content["without_influence"],
        content["x_scale"],
        content["values"],
        noise_model_parts(content["noise_model"]),
        evidence_parts(content["selection"]),
    )
    return model, content["known_noise"]


def _plain(value: Any) -> Any:
    """Noise variances as a file holds them."""
    if value is None or isinstance(value, float | int | Tensor | np.ndarray):
        return value
    return np.asarray(value, dtype=float)
