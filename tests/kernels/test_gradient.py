"""`kernel_gradient` against autograd through the whole matrix, and against differences."""

from __future__ import annotations

import gpytorch.kernels as gk
import pytest
import torch

from sggp.errors import DtypeError, ShapeError, UnsupportedKernel
from sggp.hyperparameters import fit_exact
from sggp.kernels import TanimotoMinMax, as_covariance, draw_features, gradient, kernel_gradient
from sggp.native import library
from tests import oracles
from tests.catalogue import KERNELS
from tests.memory import peak_bytes


def whole(kernel, x, left, right):
    names = {name: p for name, p in kernel.named_parameters() if p.requires_grad}
    value = (left * (kernel(x).to_dense() @ right)).sum()
    if not value.requires_grad:
        return {name: torch.zeros_like(p) for name, p in names.items()}
    grads = torch.autograd.grad(value, list(names.values()), allow_unused=True)
    return {
        n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(names.items(), grads, strict=True)
    }


@pytest.mark.parametrize("row", KERNELS, ids=str)
@pytest.mark.parametrize("closed", ["chosen", "reference"])
def test_agrees_with_autograd_through_the_whole_matrix(row, closed, generator, monkeypatch):
    if closed == "reference":
        monkeypatch.setattr(library, "available", lambda: False)
    kernel = row.make(4).double()
    x = row.rows(30, 4, torch.float64, generator)
    if not x.dtype.is_floating_point:
        x = x.double()
    left, right = torch.randn(2, 30, 3, dtype=torch.float64, generator=generator)
    found = kernel_gradient(kernel, x, left, right, memory_budget=2**20)
    expected = whole(kernel, x, left, right)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-7)
    assert all(p.grad is None for p in kernel.parameters())


def test_agrees_with_differences(generator):
    kernel = gk.ScaleKernel(gk.MaternKernel(1.5, ard_num_dims=3)).double()
    x = torch.randn(20, 3, dtype=torch.float64, generator=generator)
    left, right = torch.randn(2, 20, 2, dtype=torch.float64, generator=generator)
    found = kernel_gradient(kernel, x, left, right)
    step = 1e-5
    for name, parameter in kernel.named_parameters():
        flat = parameter.data.view(-1)
        for k in range(flat.numel()):
            values = []
            for sign in (1, -1):
                flat[k] += sign * step
                values.append((left * (kernel(x).to_dense() @ right)).sum().item())
                flat[k] -= sign * step
            assert found[name].reshape(-1)[k].item() == pytest.approx(
                (values[0] - values[1]) / (2 * step), rel=1e-5
            )


@pytest.mark.parametrize("scale", [1.0, 1.7])
@pytest.mark.parametrize("alpha", [0.05, 3.0, 1e4])
def test_the_shape_of_a_rational_quadratic_agrees_with_differences(alpha, scale, generator, monkeypatch):
    """In long double arithmetic by the textbook, and without the graph of any tile."""
    monkeypatch.setattr(gradient, "_by_tiles", None)
    base = gk.RQKernel(ard_num_dims=3).double()
    base.alpha = alpha
    kernel = base if scale == 1.0 else gk.ScaleKernel(base).double()
    if scale != 1.0:
        kernel.outputscale = scale
    x = torch.randn(25, 3, dtype=torch.float64, generator=generator)
    left, right = torch.randn(2, 25, 2, dtype=torch.float64, generator=generator)
    (found,) = (g.item() for n, g in kernel_gradient(kernel, x, left, right).items() if n.endswith("alpha"))
    r = oracles.distances(x.numpy(), x.numpy(), base.lengthscale.detach().numpy())
    outer = (left @ right.T).numpy()
    step = 1e-6 * alpha
    values = [(outer * oracles.rational_quadratic(r, alpha + sign * step)).sum() for sign in (1, -1)]
    per_alpha = scale * float((values[0] - values[1]) / (2 * step))
    chain = torch.autograd.grad(base.alpha.sum(), base.raw_alpha)[0].item()
    assert found == pytest.approx(per_alpha * chain, rel=1e-5, abs=1e-9)


def test_float32_and_active_dims(generator):
    kernel = gk.ScaleKernel(gk.RBFKernel(ard_num_dims=2, active_dims=(0, 2)))
    x = torch.randn(40, 3, generator=generator)
    left, right = torch.randn(2, 40, 2, generator=generator)
    expected = whole(kernel, x, left, right)
    for name, value in kernel_gradient(kernel, x, left, right).items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-3)


def test_parameters_that_are_fixed_are_left_out(generator):
    kernel = gk.ScaleKernel(gk.RBFKernel())
    kernel.base_kernel.raw_lengthscale.requires_grad_(False)
    x = torch.randn(5, 2, generator=generator)
    assert set(kernel_gradient(kernel, x, x, x)) == {"raw_outputscale"}
    assert kernel_gradient(TanimotoMinMax(), x.abs(), x, x) == {}


def test_never_holds_the_graph_of_more_than_a_tile(generator):
    kernel = gk.ScaleKernel(gk.PeriodicKernel())
    x, v = torch.randn(640, 2, generator=generator), torch.randn(640, 1, generator=generator)
    peak = peak_bytes(lambda: kernel_gradient(kernel, x, v, v, memory_budget=2**21))
    assert peak < 2**21 + 640 * 64
    assert peak_bytes(lambda: whole(kernel, x, v, v)) > 2**22


def test_misuse(generator):
    x = torch.randn(5, 2, generator=generator)
    with pytest.raises(ShapeError, match="expected"):
        kernel_gradient(gk.RBFKernel(), x, x, x[:4])
    with pytest.raises(DtypeError, match="floats"):
        kernel_gradient(gk.RBFKernel(), x, x.long(), x.long())
    with pytest.raises(UnsupportedKernel, match="batch_shape"):
        kernel_gradient(gk.RBFKernel(batch_shape=torch.Size([2])), x, x, x)


@pytest.mark.parametrize("columns", [None, [0, 2]])
def test_scales_around_scales(columns, generator):
    base = gk.RBFKernel(active_dims=columns, ard_num_dims=4 if columns is None else 2)
    inner = gk.ScaleKernel(base)
    inner.outputscale = 0.7
    kernel = gk.ScaleKernel(gk.ScaleKernel(inner)).double()
    kernel.outputscale, kernel.base_kernel.outputscale = 1.3, 2.0
    inner.raw_outputscale.requires_grad_(False)
    x = torch.randn(30, 4, dtype=torch.float64, generator=generator)
    left, right = torch.randn(2, 30, 3, dtype=torch.float64, generator=generator)
    found, expected = kernel_gradient(kernel, x, left, right), whole(kernel, x, left, right)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("columns", [[], [-1], [0, -2]])
@pytest.mark.parametrize("within", [False, True])
def test_no_columns_and_negative_ones_are_refused(columns, within, generator):
    """None was an error of torch; a negative one was a column to products and an error of GPyTorch to fits."""
    kernel = gk.MaternKernel(active_dims=columns)
    kernel = gk.ScaleKernel(gk.RBFKernel() + kernel) if within else kernel
    x = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    for use in (as_covariance, lambda k: kernel_gradient(k, x, x, x), lambda k: fit_exact(k, x, x[:, 0])):
        with pytest.raises(UnsupportedKernel, match="active_dims"):
            use(kernel)
    with pytest.raises(UnsupportedKernel, match="active_dims"):
        draw_features(kernel, 8, input_dim=3, generator=generator)
