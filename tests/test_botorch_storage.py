"""Files of `PathwiseGPModel` and its siblings."""

from __future__ import annotations

import json

import gpytorch
import pytest
import torch
from botorch.models.transforms.input import (
    AppendFeatures,
    ChainedInputTransform,
    InputStandardize,
    Normalize,
    Round,
    Warp,
)
from botorch.models.transforms.outcome import ChainedOutcomeTransform, Log, Power, Standardize

import sggp.botorch
from sggp import GPRegressor
from sggp.botorch import PathwiseGPModel, PathwiseMixedGP, PathwiseMultiFidelityGP, PathwiseMultiTaskGP
from sggp.botorch.storage import models
from sggp.errors import DataFileError, InputError, NotSaved
from sggp.solvers import Cholesky

SMALL = {"num_samples": 4, "num_features": 32, "generator": 0}
GIVEN = {"optimizer": None, "noise_variance": 0.01}
X = torch.rand(15, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = 2 + X.sin().sum(-1, keepdim=True)
Q = torch.rand(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TASKS = torch.cat([X[:, :1], (torch.arange(15) % 2).unsqueeze(1)], 1).double()


def _kernel():
    return gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())


def _warped():
    warp = Warp(d=2, indices=[0], eps=1e-6)
    warp._set_concentration(0, 1.4)
    warp.requires_grad_(False)
    parts = {"r": Round(integer_indices=[]), "n": Normalize(d=2), "w": warp, "s": InputStandardize(d=2)}
    return ChainedInputTransform(**parts)


def _plain(**more):
    return PathwiseGPModel(X, Y, covar_module=_kernel(), **{**GIVEN, **SMALL, **more})


MODELS = {
    "plain": _plain,
    "learnt": lambda: PathwiseGPModel(X, Y, **SMALL),
    "two outputs": lambda: PathwiseGPModel(
        X, torch.cat([Y, -Y], 1), covar_module=_kernel(), solver=Cholesky(), **GIVEN, **SMALL
    ),
    "noise per row": lambda: PathwiseGPModel(
        X, Y, torch.full_like(Y, 0.01), covar_module=_kernel(), optimizer=None, **SMALL
    ),
    "transforms": lambda: _plain(
        input_transform=_warped(),
        outcome_transform=ChainedOutcomeTransform(l=Log(), p=Power(power=0.5), s=Standardize(m=1)),
    ),
    "no transform": lambda: _plain(outcome_transform=None),
    "float32": lambda: PathwiseGPModel(X.float(), Y.float(), covar_module=_kernel(), **GIVEN, **SMALL),
    "updated": lambda: _plain().condition_on_observations(Q, Q.sum(-1, keepdim=True)),
    "tasks": lambda: PathwiseMultiTaskGP(TASKS, Y, 1, covar_module=_kernel(), **GIVEN, **SMALL),
    "categories": lambda: PathwiseMixedGP(TASKS, Y, [1], **SMALL),
    "fidelities": lambda: PathwiseMultiFidelityGP(
        X, Y, data_fidelities=[1], covar_module=_kernel(), **GIVEN, **SMALL
    ),
    "iterations": lambda: PathwiseMultiFidelityGP(
        X, Y, iteration_fidelity=0, covar_module=_kernel(), **GIVEN, **SMALL
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_model_answers_as_the_saved_one(name, tmp_path):
    model, path = MODELS[name](), tmp_path / "model"
    points = torch.cat([Q[:, :1], torch.ones(6, 1)], 1) if name in ("tasks", "categories") else Q
    points = points.to(model.train_inputs[0])
    model.posterior(points).rsample(torch.Size([3]))
    model.save(path)
    again = PathwiseGPModel.load(path)
    assert type(again) is type(model)
    mine, theirs = model.posterior(points), again.posterior(points)
    if name != "transforms":  # of a root no mean is known
        torch.testing.assert_close(theirs.mean, mine.mean, rtol=0, atol=0)
        torch.testing.assert_close(theirs.variance, mine.variance, rtol=0, atol=0)
    many = torch.Size([11])  # more paths than came with the posterior
    torch.testing.assert_close(theirs.rsample(many), mine.rsample(many), rtol=0, atol=0)
    assert torch.equal(again.train_targets, model.train_targets)
    assert torch.equal(again.likelihood.noise, model.likelihood.noise)
    assert again.num_outputs == model.num_outputs
    rows = points[:2], Y[:2].to(points).expand(2, model.num_processes)
    one, other = (m.condition_on_observations(*rows).posterior(points) for m in (model, again))
    torch.testing.assert_close(other.rsample(many), one.rsample(many), rtol=0, atol=1e-12)


def test_next_paths_are_others(tmp_path):
    model, path = _plain(), tmp_path / "model"
    model.claim_paths(5)
    model.save(path)
    assert PathwiseGPModel.load(path).claim_paths(1) == 5


def test_output_tasks_of_the_siblings(tmp_path):
    model, path = MODELS["tasks"](), tmp_path / "model"
    model.subset_output([1]).save(path)
    again = PathwiseMultiTaskGP.load(path)
    assert again.output_tasks == [1]
    one = again.posterior(Q[:, :1]).mean
    torch.testing.assert_close(one, model.posterior(Q[:, :1], output_indices=[1]).mean)
    with pytest.raises(DataFileError, match="holds a PathwiseMultiTaskGP, not a PathwiseMixedGP"):
        PathwiseMixedGP.load(path)


def test_damaged_newer_and_other_files_are_refused(tmp_path):
    path = tmp_path / "model"
    _plain().save(path)
    whole = path.read_bytes()
    for place in (len(whole) - 5, len(whole) // 2):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(DataFileError, match="damaged"):
            PathwiseGPModel.load(path)
    path.write_bytes(whole.replace(b'"format_version":"1"', b'"format_version":"9"'))
    with pytest.raises(DataFileError, match="newer sggp"):
        PathwiseGPModel.load(path)
    path.write_bytes(whole)
    with pytest.raises(DataFileError, match=r"open it with sggp\.botorch\.PathwiseGPModel\.load"):
        GPRegressor.load(path)
    length = int.from_bytes(whole[:8], "little")
    content = json.loads(json.loads(whole[8 : 8 + length])["__metadata__"]["content"])
    assert content["class"] == "PathwiseGPModel"


def test_what_a_file_does_not_name_is_refused_before_anything_is_written(tmp_path):
    class Own(gpytorch.kernels.RBFKernel):
        pass

    class Mine(PathwiseGPModel):
        pass

    class Solver(Cholesky):
        pass

    path, alone = tmp_path / "model", {"covar_module": _kernel(), **GIVEN, **SMALL}
    appended = AppendFeatures(feature_set=torch.ones(1, 1).double(), transform_on_train=True)
    chain = ChainedInputTransform(n=Normalize(d=2), a=appended)
    for model, words in (
        (_plain(input_transform=chain), "input_transform.a: AppendFeatures is not a transform"),
        (PathwiseGPModel(X, Y, covar_module=Own(), **GIVEN, **SMALL), "Own is not a type of kernel"),
        (Mine(X, Y, **alone), "Mine is a class of your own"),
    ):
        with pytest.raises(InputError, match=words):
            model.save(path)
        assert not path.exists()
    with pytest.warns(NotSaved, match=r"solver Solver is of a class of your own.*model, and further"):
        _plain(solver=Solver()).save(path)
    with pytest.warns(NotSaved, match="solver Solver is of a class of your own"):
        PathwiseGPModel.load(path)


def test_paths_of_another_version_are_drawn_anew(tmp_path, monkeypatch):
    model, path = _plain(), tmp_path / "model"
    model.save(path)
    monkeypatch.setattr("sggp.posterior.storage._prior", lambda *args: None)
    with pytest.warns(NotSaved, match=r"paths in .*model were drawn by another version"):
        again = PathwiseGPModel.load(path)
    torch.testing.assert_close(again.posterior(Q).mean, model.posterior(Q).mean)
    assert again.posterior(Q).rsample(torch.Size([4])).shape == (4, 6, 1)


def test_a_file_whose_parts_do_not_go_together_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "model"
    model = _plain()
    model._raw_X = model._raw_X[:10]
    model.save(path)
    with pytest.raises(DataFileError, match="not a whole BoTorch model"):
        PathwiseGPModel.load(path)
    monkeypatch.setitem(models._OWN, "Unheard", ())
    monkeypatch.setattr("sggp.botorch.Unheard", type("Unheard", (PathwiseGPModel,), {}), raising=False)
    other = _plain()
    other.__class__ = sggp.botorch.Unheard
    other.save(path)
    monkeypatch.undo()
    with pytest.raises(DataFileError, match="not a whole BoTorch model"):
        PathwiseGPModel.load(path)
