"""Posteriors as tensors and plain values, and on disk."""

from __future__ import annotations

import os
import warnings
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

import sggp.solvers
from sggp.errors import InputError, NotSaved
from sggp.persistence import read_content, rebuilding, write_content
from sggp.posterior.data import Data, Prior, seeded_features
from sggp.posterior.kernel_values import describe_kernel, rebuild_kernel
from sggp.posterior.solving import Process, SolveOptions
from sggp.solvers import Solution, Solver, describe_solver, rebuild_solver
from sggp.solvers.settings import describe_solution, rebuild_solution

_KIND = "posterior"
_OPTIONS = [field.name for field in fields(SolveOptions) if field.name not in ("solver", "dtype")]
_STALE = (
    "the samples in {} were drawn by another version of sggp and cannot be drawn again: mean and solved variances are "
    "as saved, more_samples(k) draws new samples."
)
_LOST = (
    "the solver of the posterior in {}, {}, is of a class of your own, which a file cannot hold: the weights are "
    "saved, and Posterior.load(path, solver=...) takes it again; without, updates use the default one."
)


def save(path: str | os.PathLike[str], process: Process, data: Data, solution: Solution) -> None:
    """Write a posterior to `path`, O(n·(d + s)) bytes; warns with `NotSaved` of what cannot be described."""
    content = posterior_values(process, data, solution)
    write_content(path, _KIND, content)
    if content["kernel"] is None:
        warnings.warn(
            f"the kernel of the posterior in {path} is not in it ({content['kernel_reason']}): all else is saved, and "
            "Posterior.load(path, kernel=...) takes it again.",
            NotSaved,
            stacklevel=3,
        )
    if process.options.solver is not None and content["settings"]["solver"] is None:
        warnings.warn(_LOST.format(path, content["settings"]["solver_name"]), NotSaved, stacklevel=3)


def posterior_values(process: Process, data: Data, solution: Solution) -> dict[str, Any]:
    """A posterior as tensors and plain values; kernels and solvers of types that a file does not name by name alone."""
    options, prior = process.options, process.prior
    kernel, reason = None, ""
    try:
        kernel = describe_kernel(process.kernel)
    except InputError as error:
        reason = str(error)
    return {
        "kernel": kernel,
        "kernel_reason": reason,
        "kernel_name": type(process.kernel).__name__,
        "data": {"x": data.x, "y": data.y, "noise_variance": data.noise_variance, "noise": data.noise},
        "mean": process.mean,
        "prior": None
        if prior is None
        else {
            "seed": prior.seed,
            "weights": prior.weights,
            "p": prior.num_features,
            "centre": prior.centre,
            "values": prior.at(data.x[:1]),
        },
        "solution": describe_solution(solution),
        "settings": {
            **{name: getattr(options, name) for name in _OPTIONS},
            "dtype": str(options.dtype).removeprefix("torch."),
            "solver": None if options.solver is None else describe_solver(options.solver),
            "solver_name": None if options.solver is None else type(options.solver).__name__,
        },
    }


def load(path: str | os.PathLike[str], kernel: Any, solver: Solver | None) -> tuple[Process, Data, Solution]:
    """Read what `save` wrote, or an older file; arguments and errors are those of `Posterior.load`."""
    content = read_content(path, _KIND)
    if kernel is None and "kernel" in content and content["kernel"] is None:
        raise InputError(
            f"the posterior in {path} uses a {content.get('kernel_name')}, which is not saved "
            f"({content.get('kernel_reason') or 'of a type of your own'}); pass kernel= with the same hyperparameters."
        )
    again = "save it again (where kernel= was given, see that it is the one it was saved with)"
    with rebuilding(path, _KIND, again):
        process, data, solution, told = posterior_parts(content, kernel, solver)
    for text in told:
        warnings.warn(text.replace("{}", str(path)), NotSaved, stacklevel=3)
    return process, data, solution


def posterior_parts(
    content: dict[str, Any], kernel: Any = None, solver: Solver | None = None
) -> tuple[Process, Data, Solution, list[str]]:
    """What `posterior_values` gave, and what is to be told of it, with {} for the file.

    Raises:
        SggpError, LookupError, TypeError, ValueError, ...: parts are missing, or do not go together.
    """
    kernel = rebuild_kernel(content["kernel"]) if kernel is None else kernel
    data, solution = Data(**content["data"]), rebuild_solution(content["solution"])
    options, lost = _options(content["settings"], solver)
    prior = _prior(kernel, content["prior"], data.x)
    stale = content["prior"] is not None and prior is None
    if stale:
        data, solution = _mean_alone(data, solution)
    process = Process(kernel, float(content["mean"]), prior, options)
    _check_shapes(process, data, solution)
    return process, data, solution, [_LOST.format("{}", lost)] * bool(lost) + [_STALE] * stale


def _options(stored: dict[str, Any], solver: Solver | None) -> tuple[SolveOptions, str]:
    """The options, and the name of a solver that the file could not hold and nobody gave again."""
    described, lost = stored["solver"], ""
    if solver is None and described is not None:  # in the first files the class, its settings as by default
        old = isinstance(described, str)
        if old and not hasattr(sggp.solvers, described):
            lost = described
        else:
            solver = rebuild_solver({"class": described} if old else described)
    elif solver is None:
        lost = stored.get("solver_name") or ""
    dtype = {"float64": torch.float64, "float32": torch.float32}[stored["dtype"]]
    return SolveOptions(solver=solver, dtype=dtype, **{name: stored[name] for name in _OPTIONS}), lost


def _prior(kernel: Any, stored: dict[str, Any] | None, x: Tensor) -> Prior | None:
    """The prior functions, None where there are none or this version draws others from their seed."""
    if stored is None:
        return None
    features = seeded_features(kernel, stored["p"], x.shape[1], stored["seed"], stored["centre"])
    prior = Prior(features, stored["weights"], stored["seed"], stored["p"], stored["centre"])
    if features.num_features != len(prior.weights) or "values" not in stored:
        return None
    found, scale = prior.at(x[:1]).double(), float(stored["values"].abs().max())
    same = torch.allclose(found, stored["values"].double(), rtol=0, atol=1e-4 * scale)
    return prior if same else None


def _mean_alone(data: Data, solution: Solution) -> tuple[Data, Solution]:
    """Without the samples."""
    parts = {
        name: getattr(solution, name)[:1] for name in ("status", "residual", "residual_error", "tolerance")
    }
    solution = replace(solution, x=solution.x[:, :1], **parts)
    return replace(data, noise=data.noise[:, :0]), solution


def _check_shapes(process: Process, data: Data, solution: Solution) -> None:
    """Raise ValueError where the parts of a file do not go together."""
    n, samples = len(data.x), solution.x.shape[1] - 1
    rows = data.rows if process.options.centres is None else process.options.centres
    features = 0 if process.prior is None else process.prior.features.num_features
    weights = None if process.prior is None else process.prior.weights
    expected: list[tuple[Tensor | None, tuple[int, ...]]] = [
        (data.x, (n, data.x.shape[1])),
        (data.y, (n,)),
        (data.noise_variance, (n,)),
        (data.noise, (n, samples)),
        (solution.x, (len(rows), 1 + samples)),
        (solution.residual, (1 + samples,)),
        (solution.tolerance, (1 + samples,)),
        (rows, (len(rows), data.x.shape[1])),
        (weights, (features, samples)),
    ]
    for value, shape in expected:
        if value is not None and value.shape != shape:
            raise ValueError(f"expected {shape}, got {tuple(value.shape)}")
    if len(solution.status) != 1 + samples:
        raise ValueError(f"expected {1 + samples} states, got {len(solution.status)}")
