"""Whatever the way in, the same table and kernel give the same hyperparameters, here all in the table's own units."""

from __future__ import annotations

from pathlib import Path

import gpytorch
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sggp import GPRegressor, TanimotoMinMax
from sggp.bayesopt import Box, Campaign, Pool, fit_surrogate
from sggp.hyperparameters.units import kernel_in_units

LOW, HIGH = np.array([-3.0, 100.0, 0.0]), np.array([5.0, 900.0, 1e-3])
CLOSE = 1e-4  # relative; where one optimum is found from the same start, to the optimiser's own tolerance


def table(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    unit = rng.random((n, 3))
    y = 50 + 12 * np.sin(5 * unit[:, 0]) + 6 * unit[:, 1] ** 2 + rng.normal(size=n)
    return LOW + (HIGH - LOW) * unit, y


def fingerprints(n: int = 80) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    counts = rng.poisson(0.15, size=(n, 64)).astype(np.uint8)
    return counts, 7 + counts[:, :20].sum(axis=1) * 0.8 + 0.3 * rng.normal(size=n)


def of_regressor(model: GPRegressor, d: int) -> np.ndarray:
    """Length scales, output scale, noise and mean in the units of the table."""
    scale = float(model.y_scale_[0])
    kernel = kernel_in_units(model.kernel_, model.x_scale_ if d else None, scale)
    mean = float(model.y_offset_[0]) + scale * float(torch.as_tensor(model.fit_result_.mean))
    return packed(kernel, model.noise_variance_, mean, d)


def learnt(kernel: gpytorch.kernels.Kernel) -> gpytorch.kernels.Kernel:
    """A posterior's kernel without the unknown constant."""
    return kernel.kernels[0] if isinstance(kernel, gpytorch.kernels.AdditiveKernel) else kernel


def packed(kernel: gpytorch.kernels.Kernel, noise: float, mean: float, d: int) -> np.ndarray:
    lengths = kernel.base_kernel.lengthscale.detach().reshape(-1).tolist() if d else []
    return np.array([*lengths, float(kernel.outputscale.detach()), noise, mean])


def of_surrogate(model, widths: np.ndarray) -> np.ndarray:
    """The same of a campaign's model, which works in a cube of these widths and in normalised values."""
    posterior, scale = model.posterior, model.scale
    kernel = kernel_in_units(learnt(posterior.kernel), widths if len(widths) else None, scale)
    noise = float(posterior.noise_variance.max()) * scale**2
    return packed(kernel, noise, model.offset + scale * posterior.prior_mean, len(widths))


def test_a_campaign_and_the_estimator_learn_the_same_from_numbers(tmp_path: Path) -> None:
    x, y = table()
    expected = of_regressor(GPRegressor(random_state=0).fit(x, y), 3)
    campaign = Campaign(Box(np.stack([LOW, HIGH], axis=1).tolist()), tmp_path / "c.db", maximize=True, seed=0)
    campaign.attach_many([(row, float(value)) for row, value in zip(x, y, strict=True)])
    assert_allclose(of_surrogate(campaign.model(), HIGH - LOW), expected, rtol=CLOSE)
    direct = fit_surrogate(torch.from_numpy(x), torch.from_numpy(y), num_samples=1)
    assert_allclose(of_surrogate(direct, np.ones(3)), expected, rtol=CLOSE)


def test_the_botorch_model_learns_the_same_from_numbers() -> None:
    pytest.importorskip("botorch", reason="the extra botorch is not installed")
    from sggp.botorch import PathwiseGPModel

    x, y = table()
    expected = of_regressor(GPRegressor(random_state=0).fit(x, y), 3)
    for transform in ({}, {"outcome_transform": None}):
        model = PathwiseGPModel(torch.from_numpy(x), torch.from_numpy(y)[:, None], num_samples=2, **transform)
        offset, scale = 0.0, 1.0
        if not transform:
            offset, scale = float(model.outcome_transform.means), float(model.outcome_transform.stdvs)
        kernel = kernel_in_units(model.covar_module, np.ones(3), scale)
        noise = float(model.output_models[0].noise_variance) * scale**2
        mean = offset + scale * float(model.output_models[0].mean_module.constant.detach())
        assert_allclose(packed(kernel, noise, mean, 3), expected, rtol=CLOSE)


@pytest.mark.parametrize("kernel", [None, "rbf"])
def test_the_command_learns_the_same_from_numbers(kernel: str | None, tmp_path: Path) -> None:
    pytest.importorskip("typer", reason="the extra cli is not installed")
    from sggp.cli import main
    from sggp.cli.model_files import load_model

    x, y = table()
    rows = [
        "a,b,c,y",
        *(",".join(repr(float(v)) for v in (*row, value)) for row, value in zip(x, y, strict=True)),
    ]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    chosen = [] if kernel is None else ["--kernel", kernel]
    out = tmp_path / "m.sggp"
    assert (
        main(["fit", str(tmp_path / "t.csv"), "--target", "y", "--out", str(out), "--seed", "0", *chosen])
        == 0
    )
    found, expected = load_model(out).model, GPRegressor(kernel, random_state=0).fit(x, y)
    scale = float(found.scaling_.y_scale[0])
    posterior = found.posterior_
    told = packed(
        kernel_in_units(learnt(posterior.kernel), found.scaling_.x_scale, scale),
        float(posterior.noise_variance.max()) * scale**2,
        float(found.scaling_.y_offset[0]) + scale * posterior.prior_mean,
        3,
    )
    assert_allclose(told, of_regressor(expected, 3), rtol=CLOSE)


def test_every_way_learns_the_same_from_fingerprints(tmp_path: Path) -> None:
    counts, y = fingerprints()
    expected = of_regressor(GPRegressor("tanimoto", random_state=0, num_samples=2).fit(counts, y), 0)
    table = torch.from_numpy(counts)
    # `sggp suggest` is this function on the measured molecules' counts
    assert_allclose(
        of_surrogate(fit_surrogate(table, torch.from_numpy(y), num_samples=1), np.ones(0)),
        expected,
        rtol=CLOSE,
    )
    campaign = Campaign(Pool(table), tmp_path / "c.db", maximize=True, seed=0)
    campaign.attach_many(list(enumerate(y.tolist())))
    assert_allclose(of_surrogate(campaign.model(), np.ones(0)), expected, rtol=CLOSE)


def test_a_given_kernel_is_learnt_alike() -> None:
    pytest.importorskip("botorch", reason="the extra botorch is not installed")
    from sggp.botorch import PathwiseGPModel

    counts, y = fingerprints()
    kernel = gpytorch.kernels.ScaleKernel(TanimotoMinMax()).double()
    expected = of_regressor(GPRegressor(kernel, random_state=0, num_samples=2).fit(counts, y), 0)
    model = PathwiseGPModel(
        torch.from_numpy(counts).double(),
        torch.from_numpy((y - y.mean()) / y.std())[:, None],
        covar_module=kernel,
        outcome_transform=None,
        num_samples=2,
    )
    found = packed(
        kernel_in_units(model.covar_module, None, y.std()),
        float(model.output_models[0].noise_variance) * y.var(),
        y.mean() + y.std() * float(model.output_models[0].mean_module.constant.detach()),
        0,
    )
    assert_allclose(found, expected, rtol=CLOSE)
