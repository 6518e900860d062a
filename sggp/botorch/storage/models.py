"""`PathwiseGPModel` and its siblings on disk."""

from __future__ import annotations

import os
import warnings
from importlib import import_module
from typing import Any

import torch

from sggp import fitting
from sggp.botorch.output import Given, OutputGP, SolveSettings
from sggp.botorch.storage.transforms import describe_transform, rebuild_transform
from sggp.errors import DataFileError, InputError, NotSaved
from sggp.persistence import read_content, rebuilding, write_content
from sggp.posterior import Posterior
from sggp.posterior.kernel_values import describe_kernel, rebuild_kernel
from sggp.posterior.storage import posterior_parts, posterior_values
from sggp.solvers import describe_solver, rebuild_solver

__all__ = ["load_model", "save_model"]

KIND = "BoTorch model"
_OWN = {
    "PathwiseGPModel": (),
    "PathwiseMultiTaskGP": ("_task_feature", "_rank", "_tasks", "_output_tasks"),
    "PathwiseMultiFidelityGP": ("_iteration", "_data"),
    "PathwiseMixedGP": ("_cat_dims",),
}
"""The models that a file may name, and the attributes that each has beside those of all."""
_LOST = (
    "the solver {} is of a class of your own, which a file cannot hold: what was solved is in {{}}, and further solves "
    "use the default one."
)
_STALE = (
    "the paths in {} were drawn by another version of sggp and cannot be drawn again: the model is solved anew at its "
    "first use, with paths of its own."
)
_TRANSFORMS = ("input_transform", "outcome_transform")


def save_model(path: str | os.PathLike[str], model: Any) -> None:
    """Write a model; see `PathwiseGPModel.save`."""
    kind: type = type(model)
    name = kind.__name__
    if name not in _OWN or kind is not _class_of(name):
        raise InputError(
            f"{name} is a class of your own, which a file does not name: keep it with torch.save."
        )
    model.solve()
    settings = model.output_models[0].settings
    solver = settings.model.solver
    described = None if solver is None else describe_solver(solver)
    content = {
        "class": name,
        "own": {key: getattr(model, key) for key in _OWN[name]},
        "raw_x": model._raw_X,
        "next_path": model._next_path,
        "learned": model._learned,
        "transforms": {key: describe_transform(getattr(model, key, None), key) for key in _TRANSFORMS},
        "settings": {
            "solver": described,
            "solver_name": None if solver is None else type(solver).__name__,
            "num_samples": settings.model.num_samples,
            "num_features": settings.model.num_features,
            "options": dict(settings.model.options),
            "tolerance": settings.tolerance,
            "on_failure": settings.on_failure,
        },
        "outputs": [_output_values(output) for output in model.output_models],
    }
    write_content(path, KIND, content)
    if solver is not None and described is None:
        text = _LOST.format(type(solver).__name__).replace("{}", str(path))
        warnings.warn(text, NotSaved, stacklevel=3)


def load_model(path: str | os.PathLike[str], asked: type) -> Any:
    """The model that `save_model` wrote; see `PathwiseGPModel.load`."""
    content = read_content(path, KIND)
    with rebuilding(path, KIND):
        kind = _class_of(content["class"])
    if not issubclass(kind, asked):
        raise DataFileError(
            f"{path} holds a {kind.__name__}, not a {asked.__name__}: load it by its own class."
        )
    with rebuilding(path, KIND):
        model, told = _restored(kind, content)
    for text in dict.fromkeys(told):
        warnings.warn(text.replace("{}", str(path)), NotSaved, stacklevel=3)
    return model


def _class_of(name: str) -> type:
    """The model of this name.

    Raises:
        InputError: a file may not name it.
    """
    if name not in _OWN:
        raise InputError(f"the file names an unknown model {name!r}.")
    found: type = getattr(import_module("sggp.botorch"), name)
    return found


def _output_values(output: OutputGP) -> dict[str, Any]:
    """One output, its kernel by name: InputError where there is none."""
    posterior = output.posterior
    return {
        "x": output.x,
        "y": output.y,
        "known_noise": output.known_noise,
        "seed": output._seed,
        "given_noise": output._given_noise,
        "default": output._default,
        "learnt_mean": output._learnt_mean,
        "kernel": describe_kernel(output.covar_module),
        "mean": output.mean_module.constant,
        "likelihood": None if output.known_noise is not None else dict(output.likelihood.state_dict()),
        "posterior": posterior_values(posterior.process, posterior.data, posterior.solution),
    }


def _restored(kind: Any, content: dict[str, Any]) -> tuple[Any, list[str]]:
    """The model, and what is to be told of it."""
    stored = dict(content["settings"])
    settings = SolveSettings(
        fitting.ModelSettings(
            solver=None if stored["solver"] is None else rebuild_solver(stored["solver"]),
            num_samples=stored["num_samples"],
            num_features=stored["num_features"],
            options=stored["options"],
        ),
        stored["tolerance"],
        stored["on_failure"],
    )
    lost = stored["solver"] is None and stored["solver_name"]
    model, outputs, told = kind.__new__(kind), [], [_LOST.format(lost)] if lost else []
    model._start()
    for key, value in content["own"].items():
        setattr(model, key, value)
    for key, described in content["transforms"].items():
        if described is not None:
            setattr(model, key, rebuild_transform(described))
    for values in content["outputs"]:
        output, more = _output(values, settings)
        outputs.append(output)
        told += more
    if any(len(output.x) != len(content["raw_x"]) for output in outputs) or not outputs:
        raise ValueError("outputs of other rows than the inputs")
    model._assemble(outputs, content["raw_x"])
    model._next_path, model._learned = content["next_path"], content["learned"]
    return model.eval(), told


def _output(values: dict[str, Any], settings: SolveSettings) -> tuple[OutputGP, list[str]]:
    """One output; solved anew at its first use where this version draws other features from its seed."""
    given = Given(rebuild_kernel(values["kernel"]), values["given_noise"], float(values["mean"]))
    x, y, noise = values["x"], values["y"], values["known_noise"]
    output = OutputGP(x, y, noise, given=given, settings=settings, seed=values["seed"])
    output._default, output._learnt_mean = values["default"], values["learnt_mean"]
    with torch.no_grad():
        output.mean_module.constant.copy_(values["mean"])
    if values["likelihood"] is not None:
        output.likelihood.load_state_dict(values["likelihood"])
    process, data, solution, _ = posterior_parts(values["posterior"])
    if not torch.equal(data.x, output.x):
        raise ValueError("a posterior of other rows than its output")
    if solution.x.shape[1] != 1 + output.num_samples:
        return output, [_STALE]
    output._posterior = Posterior(process, data, solution)
    return output, []
