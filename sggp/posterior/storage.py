"""Posteriors on disk: tensors and plain values, no pickle, written whole or not at all."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import sggp.solvers as solvers
from sggp.errors import DataFileError, InputError
from sggp.files import whole_file
from sggp.kernels import as_covariance
from sggp.posterior.data import Data, Prior, seeded_features
from sggp.posterior.kernel_values import describe_kernel, rebuild_kernel
from sggp.solvers import Solution, Status

if TYPE_CHECKING:
    from sggp.posterior.posterior import Posterior

__all__ = ["load", "save"]

_FORMAT = "sggp-posterior-1"


def save(posterior: Posterior, path: str | os.PathLike[str]) -> None:
    """Write `posterior` to `path`, O(n·(d + s)) bytes. The file appears only once it is complete."""
    solution, settings, prior, data = posterior.solution, posterior.settings, posterior.prior, posterior.data
    content = {
        "format": _FORMAT,
        "kernel": describe_kernel(posterior.kernel),
        "kernel_name": type(posterior.kernel).__name__,
        "data": {"x": data.x, "y": data.y, "noise_variance": data.noise_variance, "noise": data.noise},
        "mean": posterior.prior_mean,
        "prior": None
        if prior is None
        else {"seed": prior.seed, "weights": prior.weights, "p": prior.num_features, "centre": prior.centre},
        "solution": {
            "x": solution.x,
            "status": [str(status) for status in solution.status],
            "residual": solution.residual,
            "residual_kind": solution.residual_kind,
            "residual_error": solution.residual_error,
            "tolerance": solution.tolerance,
            "epochs": solution.epochs,
            "seconds": solution.seconds,
            "iterations": solution.iterations,
            "method": solution.method,
            "notes": list(solution.notes),
        },
        "settings": {
            "solver": None if settings.solver is None else type(settings.solver).__name__,
            "tolerance": settings.tolerance,
            "num_features": settings.num_features,
            "dtype": str(settings.dtype).removeprefix("torch."),
            "memory_budget": settings.memory_budget,
            "max_epochs": settings.max_epochs,
            "max_seconds": settings.max_seconds,
            "on_failure": settings.on_failure,
            "centres": settings.centres,
        },
    }
    with whole_file(path) as stream:
        torch.save(content, stream)


def load(path: str | os.PathLike[str], *, kernel: Any = None) -> Posterior:
    """Read a posterior.

    Raises:
        DataFileError: the file is missing or is not a saved posterior.
        InputError: its kernel cannot be described by values and `kernel` was not given.
    """
    from sggp.posterior.conditioning import Settings
    from sggp.posterior.posterior import Posterior

    content = _read(path)
    if kernel is None:
        if content["kernel"] is None:
            raise InputError(
                f"the posterior in {path} uses a {content['kernel_name']}, which is not saved; pass kernel= with the "
                "same hyperparameters."
            )
        kernel = rebuild_kernel(content["kernel"])
    data = Data(**content["data"])
    groups = data.groups()
    prior = None
    if content["prior"] is not None:
        stored = content["prior"]
        features = seeded_features(kernel, stored["p"], data.x.shape[1], stored["seed"], stored["centre"])
        prior = Prior(features, stored["weights"], stored["seed"], stored["p"], stored["centre"])
    stored = content["settings"]
    chosen = None if stored["solver"] is None else getattr(solvers, stored["solver"], None)
    settings = Settings(
        **{**stored, "solver": None if chosen is None else chosen(), "dtype": getattr(torch, stored["dtype"])}
    )
    stored = content["solution"]
    solution = Solution(
        **{
            "residual_kind": "true",  # of files that do not say: they were written when there was no other kind
            **stored,
            "status": tuple(Status(s) for s in stored["status"]),
            "notes": tuple(stored["notes"]),
        }
    )
    return Posterior(
        kernel=kernel,
        covariance=as_covariance(kernel, dtype=None if data.x.is_floating_point() else settings.dtype),
        data=data,
        groups=groups,
        noise_variance=groups.noise(data.noise_variance),
        mean=content["mean"],
        prior=prior,
        solution=solution,
        settings=settings,
    )


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    if not Path(path).is_file():
        raise DataFileError(f"there is no file {path}.")
    try:
        content = torch.load(path, weights_only=True)
    except (RuntimeError, ValueError, EOFError, OSError, KeyError) as error:
        raise DataFileError(f"{path} is not a posterior saved by sggp ({error}).") from error
    except pickle.UnpicklingError as error:
        raise DataFileError(f"{path} is not a posterior saved by sggp.") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise DataFileError(f"{path} is not a posterior saved by sggp (expected format {_FORMAT!r}).")
    return content
