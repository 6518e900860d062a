"""Kernels over names: tasks by their numbers and categories, against their formulas in plain Python."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import gpytorch.kernels as gk
import pytest
import torch
from torch import Tensor

from sggp.errors import InputError
from sggp.kernels import TaskKernel, as_covariance, draw_features
from sggp.kernels.categories import HammingCovariance
from sggp.kernels.features.categories import hamming_map
from sggp.posterior import Posterior, condition
from sggp.testing import check_features

FACTOR = torch.tensor([[1.0, 0.2], [-0.7, 0.5], [0.4, 0.9]], dtype=torch.float64)
OWN = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
NUMBERS = [7, 0, 2]
ROWS = torch.tensor([[0.1, 0], [0.3, 2], [0.5, 7], [1.0, 0], [0.1, 7], [0.1, 0]], dtype=torch.float64)


def tasks(**options: object) -> TaskKernel:
    kernel = TaskKernel(NUMBERS, rank=2, **options).double()
    kernel.initialize(covar_factor=FACTOR.clone(), var=OWN)
    return kernel


def matrix(x: Tensor, z: Tensor) -> Tensor:
    """Of task numbers, by the definition: the rows of the factor are those of 0, 2 and 7."""
    place = {0: 0, 2: 1, 7: 2}
    entries = [
        [
            float(FACTOR[place[s]] @ FACTOR[place[t]]) + (float(OWN[place[s]]) if s == t else 0.0)
            for t in z.tolist()
        ]
        for s in x.tolist()
    ]
    return torch.tensor(entries, dtype=torch.float64)


def coregionalised(smooth: gk.Kernel | None = None) -> gk.ProductKernel:
    smooth = gk.MaternKernel(1.5, active_dims=[0]) if smooth is None else smooth
    return gk.ScaleKernel(smooth).double() * tasks(active_dims=[1])


def test_entries_are_those_of_the_tasks_named() -> None:
    kernel, x, z = tasks(active_dims=[1]), ROWS, ROWS[:4]
    expected = matrix(x[:, 1], z[:, 1])
    covariance = as_covariance(kernel)
    for found in (kernel(x, z).to_dense(), covariance.block(x, z)):
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
    for found in (kernel(x, diag=True), covariance.diagonal(x)):
        torch.testing.assert_close(found, matrix(x[:, 1], x[:, 1]).diagonal(), rtol=1e-14, atol=1e-14)
    assert covariance.scale == pytest.approx(1.27)
    batch = torch.stack([x, x.flip(0)])
    torch.testing.assert_close(covariance.small_blocks(batch)[1], matrix(x.flip(0)[:, 1], x.flip(0)[:, 1]))
    copied = pickle.loads(pickle.dumps(kernel))
    assert torch.equal(copied(x).to_dense(), kernel(x).to_dense())


def test_posteriors_of_tasks_are_saved_without_pickle(tmp_path: Path) -> None:
    y = torch.arange(6.0, dtype=torch.float64)
    posterior = condition(
        coregionalised(), ROWS, y, noise_variance=0.1, num_samples=3, num_features=32, generator=0
    )
    posterior.save(tmp_path / "tasks.gp")
    loaded = Posterior.load(tmp_path / "tasks.gp")
    assert torch.equal(loaded.samples(ROWS), posterior.samples(ROWS))


def test_the_start_is_one_matrix_and_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    start = TaskKernel([3, 1, 3, 2]).double()
    assert torch.equal(torch.get_rng_state(), before)
    expected = torch.full((3, 3), 0.5).fill_diagonal_(1.0).double()
    torch.testing.assert_close(start.covar_matrix.to_dense(), expected, rtol=0, atol=1e-6)
    rank1 = TaskKernel(range(3), rank=1).double().covar_matrix.to_dense()
    torch.testing.assert_close(rank1.diagonal(), torch.ones(3).double(), rtol=0, atol=1e-6)


def test_the_engine_of_a_product_has_the_gradient_in_the_other_columns() -> None:
    kernel, x = coregionalised(), ROWS[:3].clone().requires_grad_()
    weights = torch.arange(6.0, dtype=torch.float64)[:, None]
    as_covariance(kernel).matmul(x, ROWS + 0.0, weights).square().sum().backward()
    z = ROWS[:3].clone().requires_grad_()
    smooth = gk.ScaleKernel(gk.MaternKernel(1.5, active_dims=[0])).double()
    dense = smooth(z, ROWS).to_dense() * matrix(ROWS[:3, 1], ROWS[:, 1])
    (dense @ weights).square().sum().backward()
    torch.testing.assert_close(x.grad, z.grad)
    assert x.grad[:, 0].abs().min() > 0


class TestFeatures:
    def test_tasks_are_mixtures_of_functions_by_a_cholesky_factor(self) -> None:
        alone = draw_features(tasks(), 5, input_dim=1, generator=0)
        assert (alone.num_features, alone.exact) == (3, True)
        phi = alone.phi(ROWS[:, 1:])
        torch.testing.assert_close(phi @ phi.T, matrix(ROWS[:, 1], ROWS[:, 1]), rtol=1e-12, atol=1e-12)
        # in a product, the error is that of the smooth kernel alone, whatever the tasks
        map_ = draw_features(coregionalised(), 32, input_dim=2, generator=0)
        assert map_.num_features == 3 * 32
        phi = map_.phi(ROWS)
        ratio = (phi @ phi.T) / matrix(ROWS[:, 1], ROWS[:, 1])
        assert ratio[0, 0] == pytest.approx(float(ratio[4, 4]))
        torch.testing.assert_close(ratio[0, 1], ratio[4, 1])  # points .1 and .3, tasks (0, 2) and (7, 2)

    @pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # of GPyTorch's IndexKernel
    @pytest.mark.parametrize(
        "kernel",
        [
            coregionalised(),
            coregionalised(gk.RBFKernel(active_dims=[0]) * gk.PeriodicKernel(active_dims=[0])),
            coregionalised() + tasks(active_dims=[1]),
            gk.ScaleKernel(gk.IndexKernel(8, rank=2, active_dims=[1])) * tasks(active_dims=[1]),
        ],
        ids=["product", "product of three", "sum", "tasks alone"],
    )
    def test_they_keep_their_promises(self, kernel: gk.Kernel) -> None:
        assert check_features(kernel, ROWS, generator=0, num_features=16, num_maps=60) == []

    def test_they_keep_the_gradient_in_the_other_columns(self) -> None:
        x = ROWS.clone().requires_grad_()
        draw_features(coregionalised(), 32, input_dim=2, generator=0).phi(x)[:, 1].sum().backward()
        assert x.grad[:, 0].abs().max() > 0
        assert x.grad[:, 1].abs().max() == 0


class TestHamming:
    WEIGHTS = torch.tensor([0.3, 0.8], dtype=torch.float64)
    ROWS = torch.tensor(
        [[0.0, 0.0], [0.0, 1.0], [-0.0, 5.5], [1.0, 1.0], [1e6, 1e6 + 1]], dtype=torch.float64
    )

    def expected(self) -> Tensor:
        return torch.tensor(
            [
                [
                    math.exp(-sum(w for w, a, b in zip((0.3, 0.8), x, z, strict=True) if a != b))
                    for z in self.ROWS.tolist()
                ]
                for x in self.ROWS.tolist()
            ],
            dtype=torch.float64,
        )

    def test_covariance(self) -> None:
        covariance = HammingCovariance(self.WEIGHTS)
        torch.testing.assert_close(covariance.block(self.ROWS), self.expected(), rtol=1e-14, atol=0)
        torch.testing.assert_close(
            covariance.small_blocks(self.ROWS[None])[0], self.expected(), rtol=1e-14, atol=0
        )
        assert torch.equal(covariance.diagonal(self.ROWS), torch.ones(5).double())
        shared = HammingCovariance(torch.tensor([0.6])).block(self.ROWS[:1], self.ROWS[3:4])
        assert float(shared) == pytest.approx(math.exp(-0.6))

    def test_features(self) -> None:
        generator = torch.Generator().manual_seed(0)
        map_ = hamming_map(self.WEIGHTS, 20000, input_dim=2, generator=generator).rescaled(2.0)
        phi = map_.phi(self.ROWS)
        gram = phi @ phi.T
        torch.testing.assert_close(gram.diagonal(), torch.full((5,), 2.0).double())
        assert (gram / 2 - self.expected()).abs().max() < 4.5 / math.sqrt(20000)
        assert torch.equal(map_.phi(self.ROWS[[3, 0]]), phi[[3, 0]])


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (1.0, r"task 1 is not among the known ones, \[0, 2, 7\].*all_tasks"),
        (0.5, r"whole numbers, got 0\.5.*task_feature"),
    ],
)
def test_other_numbers_are_refused_with_what_to_do(number: float, message: str) -> None:
    strange = torch.tensor([[number]], dtype=torch.float64)
    covariance = as_covariance(tasks())
    map_ = draw_features(tasks(), 5, input_dim=1, generator=0)
    for call in (
        lambda: tasks()(strange).to_dense(),
        lambda: covariance.block(strange),
        lambda: map_.phi(strange),
    ):
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize(
    ("numbers", "rank", "message"),
    [
        ([], None, "tasks is empty"),
        ([1, 2], 3, "from 1 to the number of tasks, 2"),
        ([1, 2], 1.5, "rank must be an integer"),
        ([1, 2], "1", "rank must be an integer"),
        ([1, 2], True, "rank must be an integer"),
        (3, None, "tasks must be a list of whole numbers; got 3"),
        (None, None, "tasks must be a list of whole numbers; got None"),
        ("12", None, "tasks must be a list of whole numbers; got '12'"),
        (["a", "b"], None, "tasks must be a list of whole numbers"),
        ([[0, 1]], None, "tasks must be a list of whole numbers"),
        ([math.nan], None, "whole numbers, got nan"),
    ],
)
def test_bad_tasks(numbers: Any, rank: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TaskKernel(numbers, rank)
