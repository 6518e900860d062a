"""Noise models on disk: the same predictions again, or a typed error."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sggp.evidence.judging import KernelScore, KernelSelection
from sggp.evidence.leave_one_out import Observed
from sggp.evidence.spread import NoiseModel, NoiseScore, SpreadSurface
from sggp.evidence.storage import evidence_parts, evidence_values, noise_model_parts
from sggp.evidence.tails import Tail
from sggp.hyperparameters import named_kernel
from sggp.persistence import read_content, write_content


def surface(m=40, d=3):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    kernel = named_kernel("matern32", d + 2)
    kernel.base_kernel.lengthscale = normal(d + 2).exp()
    kernel.outputscale = 0.37
    observed = Observed(kernel, normal(m, d + 2), normal(m, 1), torch.tensor([0.8]).double().expand(m))
    rows = torch.randperm(2 * m, generator=generator)[:m]
    return SpreadSurface(observed, rows, torch.arange(d), normal(d + 2), normal(d + 2).exp(), 0.3, 1.7)


SCORES = (
    NoiseScore("as it is", -1.5, 0.3, 0.0, 0.0),
    NoiseScore("depending on the input", -1.2, 0.2, 0.3, 0.05),
)
MODELS = {
    "plain": NoiseModel(),
    "tails": NoiseModel(Tail(-0.4, 4.25)),
    "surface": NoiseModel(Tail(0.1, float("inf"), 0.8), surface(), scores=SCORES, reason="because"),
    "outliers": NoiseModel(
        Tail(outliers=(0.01, 12.5)), None, torch.ones(80).double(), 0.04, torch.tensor([3, 70])
    ),
    "row noise": NoiseModel(Tail(0.1, 5.0, 0.8), surface(), torch.linspace(0.01, 2, 80).double(), 0.04),
}


def kept(value, folder):
    """What a file gives back of it."""
    write_content(folder / "noise", "noise model", {"model": evidence_values(value)})
    return read_content(folder / "noise", "noise model")["model"]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back(name, tmp_path):
    model = MODELS[name]
    again = noise_model_parts(kept(model, tmp_path))
    assert (again.tail, again.scores, again.reason) == (model.tail, model.scores, model.reason)
    assert (again.noise_variance, again.changes) == (model.noise_variance, model.changes)
    assert (again.apart is None) == (model.apart is None)
    if model.apart is not None:
        assert torch.equal(again.apart, model.apart)
    if model.row_noise is not None:
        assert torch.equal(again.row_noise, model.row_noise)
    x = torch.linspace(-1, 1, 15, dtype=torch.float64)
    queries = (torch.stack([x, x**2, -x], 1), x, x.exp())
    np.testing.assert_array_equal(again.log_scale(*queries), model.log_scale(*queries))
    if model.surface is not None:
        np.testing.assert_array_equal(again.surface.left_out(), model.surface.left_out())


def changed(part, **changes):
    return lambda content: (
        content["model"]["surface"][part].update(changes)
        if part
        else content["model"]["surface"].update(changes)
    )


WRONG = {
    "a part is missing": lambda content: content["model"]["surface"].pop("location"),
    "a kind nobody knows": lambda content: content["model"]["tail"].update(kind="Head"),
    "no kernel": changed("observed", kernel=None),
    "features of another number": changed("", scale=torch.ones(4)),
    "rows of another number": changed("observed", residual=torch.ones(39, 1)),
    "no variance": lambda content: content["model"]["tail"].update(df=1.5),
    "a list": lambda content: content.update(model=[1.0]),
}


@pytest.mark.parametrize("name", WRONG)
def test_parts_that_do_not_go_together_are_refused(name, tmp_path):
    content = {"model": kept(MODELS["surface"], tmp_path)}
    noise_model_parts(content["model"])
    WRONG[name](content)
    with pytest.raises((LookupError, TypeError, ValueError, AttributeError)):
        noise_model_parts(content["model"])


def test_how_kernels_compared_comes_back(tmp_path):
    score = KernelScore("rbf", -1.0, 0.5, 0.9, (0.1, 0.2), (0.0, 0.0), (0.3, 0.4), ((100, -1.0, 0.5, 0.9),))
    selection = KernelSelection("rbf", "the best", (score,), 12)
    assert evidence_parts(kept(selection, tmp_path)) == selection
