"""Molecules named by their row number in a table: `TableKernel` inside a `PathwiseGPModel`."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from torch import Tensor

pytest.importorskip("botorch", reason="the BoTorch face needs the extra botorch")

from botorch.acquisition import UpperConfidenceBound, qLogExpectedImprovement
from botorch.generation import MaxPosteriorSampling
from botorch.models import SingleTaskGP
from botorch.optim import optimize_acqf_discrete

from sggp.botorch import PathwiseGPModel, PoolThompsonSampling
from sggp.errors import DtypeError, InputError
from sggp.kernels import TableKernel, TanimotoDotProduct, TanimotoMinMax, lookup
from sggp.molecules import FingerprintTable

N, WIDTH = 1200, 48


@pytest.fixture(scope="module")
def table() -> Tensor:
    share = torch.rand(N, 1, generator=torch.Generator().manual_seed(0))
    bits = torch.rand(N, WIDTH, generator=torch.Generator().manual_seed(1)) < share
    return bits.byte()


def pair(
    table: Tensor, base: Any = TanimotoMinMax, **settings: Any
) -> tuple[PathwiseGPModel, PathwiseGPModel]:
    """The same model of row numbers and of the rows."""
    numbers = torch.arange(0, 40, dtype=torch.float64)[:, None]
    y = table[:40, :10].double().sum(1, keepdim=True)
    given = {
        "noise_variance": 0.01,
        "optimizer": None,
        "generator": 0,
        "num_samples": 16,
        "num_features": 128,
    } | settings
    by_number = PathwiseGPModel(
        numbers, y, covar_module=ScaleKernel(TableKernel(base(), table)).double(), **given
    )
    return by_number, PathwiseGPModel(
        table[:40].double(), y, covar_module=ScaleKernel(base()).double(), **given
    )


@pytest.mark.parametrize("base", [TanimotoMinMax, TanimotoDotProduct, RBFKernel])
def test_answers_are_those_of_the_rows(table: Tensor, base: Any) -> None:
    by_number, by_row = pair(table, base)
    asked = torch.tensor([[3.0], [700.0], [41.0]], dtype=torch.float64)
    rows = table[[3, 700, 41]].double()
    for left, right in ((by_number, by_row), (by_number.gaussian(), by_row.gaussian())):
        torch.testing.assert_close(
            left.posterior(asked).mean, right.posterior(rows).mean, rtol=1e-8, atol=1e-8
        )
        torch.testing.assert_close(
            left.posterior(asked).variance, right.posterior(rows).variance, rtol=1e-8, atol=1e-8
        )
    if base is RBFKernel:  # its features are those of rows less their mean: another draw
        return
    paths = [m.posterior(x).rsample(torch.Size([30])) for m, x in ((by_number, asked), (by_row, rows))]
    torch.testing.assert_close(*paths, rtol=1e-6, atol=1e-6)


def test_learning_and_copies(table: Tensor) -> None:
    by_number, by_row = pair(table, RBFKernel, noise_variance=None, optimizer="auto")
    lengths = [m.covar_module.base_kernel for m in (by_number, by_row)]
    torch.testing.assert_close(
        lengths[0].base_kernel.lengthscale, lengths[1].lengthscale, rtol=1e-4, atol=1e-4
    )
    assert copy.deepcopy(by_number).covar_module.base_kernel.table is table
    again = pickle.loads(pickle.dumps(by_number))
    asked = torch.tensor([[500.0]], dtype=torch.float64)
    assert torch.equal(again.posterior(asked).rsample(), by_number.posterior(asked).rsample())


def test_choosing_among_rows(table: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all rows but a thousand; no more rows of the table are unpacked at a time than the kernel's block."""
    monkeypatch.setattr(lookup, "_ROWS", 100)
    by_number, by_row = pair(table)
    everyone = torch.arange(N, dtype=torch.float64)[:, None]
    avoid = everyone[torch.randperm(N, generator=torch.Generator().manual_seed(3))[:1000]]
    left = everyone[~torch.isin(everyone[:, 0], avoid[:, 0])]
    for make in (
        lambda m: UpperConfidenceBound(m, beta=4.0),
        lambda m: qLogExpectedImprovement(m, best_f=9.0),
    ):
        best, _ = optimize_acqf_discrete(make(by_number), q=1, choices=everyone, X_avoid=avoid)
        with torch.no_grad():
            values = make(by_row)(table[left[:, 0].long()].double()[:, None])
        assert best.item() == left[values.argmax()].item()
    picks = MaxPosteriorSampling(by_number)(everyone, num_samples=20)[:, 0].long()
    expected = by_row.posterior(table.double()).rsample(torch.Size([20])).squeeze(-1).argmax(1)
    assert torch.equal(picks, expected)
    taken = torch.isin(everyone[:, 0], avoid[:, 0])
    chosen = PoolThompsonSampling(by_number, block_size=256).indices(everyone, 20, exclude=taken)
    assert len(set(chosen.tolist())) == 20
    assert not taken[chosen].any()


def test_no_more_rows_are_unpacked_than_a_block(table: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted:
        """A table that is no tensor, as a `FingerprintTable` is."""

        width, most = WIDTH, 0

        def __len__(self) -> int:
            return N

        def __getitem__(self, numbers: Any) -> Tensor:
            self.most = max(self.most, len(numbers))
            return table[numbers]

    monkeypatch.setattr(lookup, "_ROWS", 64)
    counted = Counted()
    by_number, by_row = pair(table)
    x, y = by_number.train_inputs[0], table[:40, :10].double().sum(1, keepdim=True)
    kernel = ScaleKernel(TableKernel(TanimotoMinMax(), counted)).double()
    model = PathwiseGPModel(
        x, y, covar_module=kernel, noise_variance=0.01, optimizer=None, generator=0, num_samples=8
    )
    everyone = torch.arange(N, dtype=torch.float64)[:, None]
    mean = model.posterior(everyone).mean
    assert counted.most <= 64
    torch.testing.assert_close(mean, by_row.posterior(table.double()).mean)


def test_a_table_of_fingerprints(table: Tensor) -> None:
    packed = FingerprintTable.from_counts(table)
    numbers = torch.tensor([[3.0], [700.0], [-0.0]], dtype=torch.float64)
    of_bytes, of_packed = (TableKernel(TanimotoMinMax(), rows) for rows in (table, packed))
    assert torch.equal(of_packed(numbers).to_dense(), of_bytes(numbers).to_dense())


def test_inside_a_botorch_model(table: Tensor) -> None:
    numbers = torch.arange(20, dtype=torch.float64)[:, None]
    y = table[:20, :10].double().sum(1, keepdim=True)
    model = SingleTaskGP(numbers, y, covar_module=ScaleKernel(TableKernel(TanimotoMinMax(), table)))
    batch = torch.tensor([[[3.0], [30.0]], [[7.0], [8.0]]], dtype=torch.float64)
    found = model.posterior(batch).mean
    assert found.shape == (2, 2, 1)
    torch.testing.assert_close(found[1], model.posterior(batch[1]).mean)


def test_what_names_no_row(table: Tensor) -> None:
    model, _ = pair(table)
    for number in (-1.0, float(N), 0.5):
        with pytest.raises(InputError, match=rf"from 0 to {N - 1}"):
            model.posterior(torch.tensor([[number]], dtype=torch.float64)).mean  # noqa: B018
    with pytest.raises(DtypeError, match="table must be a tensor"):
        TableKernel(TanimotoMinMax(), [[1, 0]])
