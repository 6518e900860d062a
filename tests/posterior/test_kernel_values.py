"""Kernels as plain values: the same function, bounds and priors again, or the part that cannot be described by name."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from gpytorch.constraints import GreaterThan, Interval, LessThan, Positive
from gpytorch.kernels import (
    ConstantKernel,
    CosineKernel,
    IndexKernel,
    Kernel,
    LinearKernel,
    MaternKernel,
    PeriodicKernel,
    PiecewisePolynomialKernel,
    PolynomialKernel,
    ProductKernel,
    RBFKernel,
    RQKernel,
    ScaleKernel,
    SpectralMixtureKernel,
)
from gpytorch.priors import GammaPrior, LogNormalPrior, NormalPrior, SmoothedBoxPrior, UniformPrior

from sggp.errors import InputError
from sggp.kernels import TableKernel, TanimotoDotProduct, TanimotoMinMax
from sggp.kernels.linear import DenseLinearKernel
from sggp.persistence.tree import pack, unpack
from sggp.posterior.kernel_values import describe_kernel, rebuild_kernel


def matern() -> Kernel:
    bound = GreaterThan(1e-4, initial_value=0.7)
    kernel = MaternKernel(
        1.5, ard_num_dims=2, lengthscale_prior=GammaPrior(2.0, 3.0), lengthscale_constraint=bound
    )
    kernel.double().lengthscale = torch.tensor([0.123456789, 0.7])
    return kernel


def fixed() -> Kernel:
    kernel = PeriodicKernel(period_length_prior=LogNormalPrior(0.0, 1.0))
    kernel.raw_lengthscale.requires_grad_(False)
    return kernel


def twice(kernel: Kernel) -> Kernel:
    return ProductKernel(kernel, kernel)


BOX = SmoothedBoxPrior(0.1, 2.0)
KERNELS = {
    "scaled": lambda: ScaleKernel(matern(), outputscale_prior=BOX).double(),
    "a power": lambda: twice(matern()),
    "a sum": lambda: fixed() + ScaleKernel(RBFKernel(active_dims=(1,))) * CosineKernel(),
    "within bounds": lambda: RBFKernel(lengthscale_constraint=Interval(1e-7, 0.3, initial_value=0.1)),
    "below": lambda: ScaleKernel(RQKernel(), outputscale_constraint=LessThan(3.0)),
    "by exp": lambda: RBFKernel(lengthscale_constraint=Positive(torch.exp, torch.log)),
    "polynomials": lambda: PolynomialKernel(2) + PiecewisePolynomialKernel(q=1),
    "a mixture": lambda: SpectralMixtureKernel(num_mixtures=3, ard_num_dims=2),
    "linear": lambda: LinearKernel(variance_prior=NormalPrior(0.0, 1.0)) + DenseLinearKernel(),
    "constant": lambda: ConstantKernel(constant_prior=UniformPrior(0.0, 2.0)),
    "similarity": lambda: TanimotoMinMax() + TanimotoDotProduct().double(),
}


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_comes_back_whole(name):
    kernel = KERNELS[name]()
    tree, tensors = pack(describe_kernel(kernel))
    again = rebuild_kernel(unpack(json.loads(json.dumps(tree)), tensors))
    ours, theirs = list(kernel.named_parameters()), list(again.named_parameters())
    assert [(n, p.dtype, p.requires_grad) for n, p in theirs] == [
        (n, p.dtype, p.requires_grad) for n, p in ours
    ]
    for (_, parameter), (_, other) in zip(ours, theirs, strict=True):
        assert torch.equal(parameter, other)
    pairs = zip(kernel.named_constraints(), again.named_constraints(), strict=True)
    assert all(one[0] == other[0] and repr(one[1]) == repr(other[1]) for one, other in pairs)
    for one, other in zip(kernel.named_priors(), again.named_priors(), strict=True):
        value, found = (read(module) for _, module, _, read, _ in (one, other))
        assert one[0] == other[0]
        assert torch.equal(one[2].log_prob(value), other[2].log_prob(found))
    x = torch.rand(5, 2, dtype=torch.float64)
    assert torch.equal(kernel.double()(x).to_dense(), again.double()(x).to_dense())
    pickle.dumps(again)


class Mine(RBFKernel):
    """A kernel of the user's own."""


def squared() -> Kernel:
    return RBFKernel(lengthscale_constraint=Positive(torch.square, torch.sqrt))


def prior_of_a_function() -> Kernel:
    kernel = RBFKernel()
    kernel.register_prior(
        "lengthscale_prior", NormalPrior(0.0, 1.0), lambda m: m.lengthscale.log(), lambda m, v: None
    )
    return kernel


@pytest.mark.parametrize(
    ("kernel", "named"),
    [
        (ScaleKernel(Mine()), "Mine"),
        (IndexKernel(2), "IndexKernel"),
        (TableKernel(TanimotoMinMax(), torch.ones(3, 4)), "TableKernel"),
        (RBFKernel(batch_shape=torch.Size([2])), "RBFKernel has no parameter raw_lengthscale of shape"),
        (squared(), "Positive"),
        (prior_of_a_function(), "NormalPrior.*lengthscale_prior"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_described_is_named(kernel, named):
    with pytest.raises(InputError, match=named):
        describe_kernel(kernel)


@pytest.mark.parametrize(
    "change",
    [
        {"type": "os.system"},
        {"type": "Module"},
        {"options": {"nu": 1.5, "eps": 3.0}},
        {"priors": {"lengthscale_prior": {"type": "Prior", "values": []}}},
        {"constraints": {"raw_lengthscale_constraint": {"type": "Module"}}},
        {"parameters": {"__class__": torch.ones(1)}},
    ],
)
def test_a_description_names_nothing_but_what_is_listed(change):
    with pytest.raises((InputError, LookupError)):
        rebuild_kernel(describe_kernel(matern()) | change)
