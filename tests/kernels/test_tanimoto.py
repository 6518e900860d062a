"""The two Tanimoto kernels: GPyTorch's own test case, values worked out by hand, RDKit, and input that goes wrong."""

from __future__ import annotations

import copy
import math
import pickle
import unittest

import gpytorch
import numpy as np
import pytest
import torch
from gpytorch.test.base_kernel_test_case import BaseKernelTestCase

from sggp.errors import InputError
from sggp.kernels import TanimotoDotProduct, TanimotoMinMax, as_covariance
from sggp.kernels.tanimoto import as_counts
from tests.catalogue import count_rows
from tests.oracles import tanimoto_dot_product, tanimoto_minmax

KINDS = [(TanimotoMinMax, tanimoto_minmax), (TanimotoDotProduct, tanimoto_dot_product)]
both = pytest.mark.parametrize(("kind", "formula"), KINDS, ids=["minmax", "dot-product"])


class TestMinMaxInGPyTorch(BaseKernelTestCase, unittest.TestCase):
    def create_kernel_no_ard(self, **kwargs):
        return TanimotoMinMax(**kwargs)


class TestDotProductInGPyTorch(BaseKernelTestCase, unittest.TestCase):
    def create_kernel_no_ard(self, **kwargs):
        return TanimotoDotProduct(**kwargs)


def rows(*values: list[float], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


@pytest.mark.parametrize(
    ("x", "z", "minmax", "dot_product"),
    [
        ([1, 2, 0, 3], [2, 2, 1, 1], 4 / 8, 9 / 15),
        ([4, 0, 3, 1], [1, 2, 4, 7], 5 / 17, 23 / 73),
        ([3, 1, 0, 0, 5], [1, 0, 2, 4, 3], 4 / 15, 18 / 47),
        ([1, 1, 0], [0, 1, 1], 1 / 3, 1 / 3),
        ([1, 0], [0, 1], 0.0, 0.0),
        ([0, 0], [0, 0], 1.0, 1.0),
        ([0, 0], [3, 0], 0.0, 0.0),
        ([255, 255], [255, 0], 0.5, 0.5),
    ],
)
@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int16, torch.int64, torch.float32, torch.float64], ids=str
)
def test_values_worked_out_by_hand(x, z, minmax, dot_product, dtype, engine):
    a, b = rows(x, dtype=dtype), rows(z, dtype=dtype)
    for kernel, value in ((TanimotoMinMax(), minmax), (TanimotoDotProduct(), dot_product)):
        assert kernel(a, b).to_dense().item() == pytest.approx(value, abs=1e-7)
        assert kernel(a, b, diag=True).item() == pytest.approx(value, abs=1e-7)
        assert as_covariance(kernel, dtype=torch.float64).block(a, b).item() == pytest.approx(value, abs=1e-7)


def test_dot_product_of_opposite_vectors_is_minus_a_third():
    assert TanimotoDotProduct()(rows([1.0, 0.0]), rows([-1.0, 0.0])).to_dense().item() == pytest.approx(
        -1 / 3
    )


def test_minmax_of_both_signs_compares_positive_and_negative_parts():
    x, z = rows([1.5, -2.0]), rows([1.0, -0.5])
    assert TanimotoMinMax()(x, z).to_dense().item() == pytest.approx(1.5 / 3.5)
    assert as_covariance(TanimotoMinMax()).block(x, z).item() == pytest.approx(1.5 / 3.5)


@both
def test_kernel_matches_the_formula_for_every_input_type(kind, formula, generator):
    counts = count_rows(12, 9, torch.float64, generator)
    exact = formula(counts.numpy(), counts.numpy())
    for x in (counts, counts.int(), counts.float(), counts.double()):
        np.testing.assert_allclose(kind()(x).to_dense().double().numpy(), exact, atol=1e-7)
    bits = counts > 0
    np.testing.assert_allclose(
        kind()(bits).to_dense().double(), formula(bits.numpy(), bits.numpy()), atol=1e-7
    )
    real = torch.rand(12, 9, dtype=torch.float64, generator=generator) * (counts > 0)
    exact = formula(real.numpy(), real.numpy())
    np.testing.assert_allclose(kind()(real).to_dense().numpy(), exact, atol=1e-13)
    np.testing.assert_allclose(as_covariance(kind()).block(real).numpy(), exact, atol=1e-13)
    assert kind()(real).to_dense().dtype == torch.float64


@both
@pytest.mark.parametrize("largest", [1, 3, 40, 255])
@pytest.mark.parametrize("d", [1, 64, 300])
def test_counts_are_exact_in_both_precisions(kind, formula, largest, d, engine, generator):
    x = torch.randint(0, largest + 1, (21, d), generator=generator).to(torch.uint8)
    z = torch.randint(0, min(largest, 5) + 1, (17, d), generator=generator).to(torch.uint8)
    exact = formula(x.numpy(), z.numpy())
    for dtype, tolerance in ((torch.float32, 6e-8), (torch.float64, 1e-15)):
        block = as_covariance(kind(), dtype=dtype).block(x, z)
        assert np.abs(block.double().numpy() - exact).max() <= tolerance


@both
def test_counts_beyond_a_byte(kind, formula, generator):
    x = torch.randint(0, 3000, (9, 6), generator=generator)
    exact = formula(x.numpy(), x.numpy())
    np.testing.assert_allclose(as_covariance(kind(), dtype=torch.float64).block(x).numpy(), exact, atol=1e-12)
    np.testing.assert_allclose(kind()(x.to(torch.int32)).to_dense().double().numpy(), exact, atol=1e-6)


@both
def test_batches_and_diagonals(kind, formula, generator):
    x = torch.stack([count_rows(6, 5, torch.float64, generator) for _ in range(3)]).double()
    z = torch.stack([count_rows(6, 5, torch.float64, generator) for _ in range(3)]).double()
    dense = kind()(x, z).to_dense()
    for i in range(3):
        np.testing.assert_allclose(dense[i].numpy(), formula(x[i].numpy(), z[i].numpy()), atol=1e-13)
    torch.testing.assert_close(kind()(x, z, diag=True), dense.diagonal(dim1=-1, dim2=-2))
    assert kind(batch_shape=torch.Size([2]))(x[0], z[0]).to_dense().shape == (2, 6, 6)
    assert kind(batch_shape=torch.Size([2]))(x[0], z[0], diag=True).shape == (2, 6)
    expanded = kind().expand_batch(torch.Size([3]))
    assert expanded.batch_shape == torch.Size([3])
    assert expanded[1].batch_shape == torch.Size([])


@both
def test_state_travels(kind, formula):
    kernel = gpytorch.kernels.ScaleKernel(kind())
    other = gpytorch.kernels.ScaleKernel(kind())
    other.load_state_dict(kernel.state_dict())
    assert [name for name, p in kernel.named_parameters() if p.requires_grad] == ["raw_outputscale"]
    for twin in (copy.deepcopy(kernel), pickle.loads(pickle.dumps(kernel))):
        assert twin(torch.eye(2)).to_dense().shape == (2, 2)


@both
def test_inside_a_gpytorch_model(kind, formula, generator):
    x, y = count_rows(15, 8, torch.float32, generator).float(), torch.randn(15, generator=generator)

    class Model(gpytorch.models.ExactGP):
        def __init__(self):
            super().__init__(x, y, gpytorch.likelihoods.GaussianLikelihood())
            self.mean_module = gpytorch.means.ConstantMean()
            self.covar_module = gpytorch.kernels.ScaleKernel(kind())

        def forward(self, inputs):
            return gpytorch.distributions.MultivariateNormal(
                self.mean_module(inputs), self.covar_module(inputs)
            )

    model = Model()
    loss = -gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)(model(x), y)
    loss.backward()
    assert torch.isfinite(model.covar_module.raw_outputscale.grad)
    model.eval()
    q = count_rows(7, 8, torch.float32, generator).float()
    scale, noise = model.covar_module.outputscale.item(), model.likelihood.noise.item()
    gram, cross = scale * formula(x.numpy(), x.numpy()), scale * formula(q.numpy(), x.numpy())
    mean = cross @ np.linalg.solve(gram + noise * np.eye(15), y.numpy())
    shift = model.mean_module.constant.item()
    assert shift == 0
    np.testing.assert_allclose(model(q).mean.detach().numpy(), mean, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float64], ids=str)
def test_negative_counts_are_refused(dtype):
    x = torch.tensor([[1, -2, 0]]).to(dtype)
    with pytest.raises(InputError, match="counts as low as -2"):
        TanimotoMinMax()(x).to_dense()
    with pytest.raises(InputError, match="counts as low as -2"):
        as_covariance(TanimotoMinMax()).block(x)
    if not dtype.is_floating_point:
        with pytest.raises(InputError, match="counts as low as -2"):
            as_covariance(TanimotoDotProduct()).block(x)


@both
def test_nan_is_refused(kind, formula):
    with pytest.raises(InputError, match="NaN"):
        as_covariance(kind()).block(torch.tensor([[1.0, float("nan")]]))


def test_agrees_with_rdkit_on_bits(engine, generator):
    data_structs = pytest.importorskip("rdkit.DataStructs")
    bits = torch.rand(20, 256, generator=generator) < 0.1
    vectors = []
    for row in bits:
        vector = data_structs.ExplicitBitVect(256)
        vector.SetBitsFromList(row.nonzero()[:, 0].tolist())
        vectors.append(vector)
    expected = np.array([data_structs.BulkTanimotoSimilarity(v, vectors) for v in vectors])
    for kernel in (TanimotoMinMax(), TanimotoDotProduct()):
        np.testing.assert_allclose(
            as_covariance(kernel, dtype=torch.float64).block(bits).numpy(), expected, atol=1e-15
        )


def test_agrees_with_rdkit_on_counts(engine):
    chem = pytest.importorskip("rdkit.Chem")
    from rdkit import DataStructs
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=512)
    molecules = [chem.MolFromSmiles(s) for s in ("CCO", "c1ccccc1O", "CC(=O)Nc1ccc(O)cc1", "CCCCCCCC", "C")]
    sparse = [generator.GetCountFingerprint(m) for m in molecules]
    counts = torch.zeros(5, 512, dtype=torch.uint8)
    for i, fingerprint in enumerate(sparse):
        for position, count in fingerprint.GetNonzeroElements().items():
            counts[i, position] = count
    dice = np.array([DataStructs.BulkDiceSimilarity(f, sparse) for f in sparse])  # 2 Σ min / (|x|₁ + |z|₁)
    block = as_covariance(TanimotoMinMax(), dtype=torch.float64).block(counts).numpy()
    np.testing.assert_allclose(block, dice / (2 - dice), atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int16, torch.int64])
def test_whole_numbers_of_a_byte_are_counts_in_any_type(dtype, generator):
    counts = torch.randint(0, 256, (300, 1000), generator=generator)  # some pieces
    counts[0, :2], counts[-1, -1] = torch.tensor([0, 255]), 255
    found = as_counts(counts.to(dtype))
    assert found.dtype == torch.uint8
    assert torch.equal(found.long(), counts)
    assert torch.equal(as_counts(counts.to(dtype).T).long(), counts.T)  # not contiguous


@pytest.mark.parametrize("place", [0, 299_999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_one_other_number_makes_no_counts(dtype, place):
    others = [-1.0, 256.0, 2.0**31, 2.0**32, -256.0, 1e18]
    if dtype.is_floating_point:
        tiny = float(torch.finfo(dtype).tiny)
        others += [0.5, 254.5, 255.5, -0.5, tiny, -tiny, 1e30, -1e30, torch.inf, -torch.inf, torch.nan]
    for other in others:
        x = torch.full((300, 1000), 255, dtype=dtype)
        x.view(-1)[place] = other
        assert as_counts(x) is None


def test_counts_of_special_shapes_and_of_a_negative_zero():
    assert torch.equal(as_counts(torch.tensor([[-0.0, 1.0]])), torch.tensor([[0, 1]], dtype=torch.uint8))
    assert as_counts(torch.empty(0, 3)).shape == (0, 3)
    assert int(as_counts(torch.tensor(7.0))) == 7
    assert as_counts(torch.tensor([True, False])).tolist() == [1, 0]
    assert as_counts(torch.tensor([0, 127], dtype=torch.int8)).tolist() == [0, 127]
    assert as_counts(torch.tensor([0, -1], dtype=torch.int8)) is None


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.int64])
def test_squares_of_rows_are_exact_whatever_their_size(dtype, generator):
    """Around 2^22, up to where roots of float32 tell whole numbers apart, and 2^24, up to where its sums are exact."""
    counts = torch.randint(0, 256, (400, 900), generator=generator)
    size = torch.randint(0, 901, (400, 1), generator=generator)  # sums from none to 4e7
    counts[torch.arange(900) >= size] = 0
    counts[:300] = counts[:300].clamp(max=3)
    counts[0], counts[1], counts[2] = 0, 255, 1
    rows = torch.zeros(
        4, 900, dtype=torch.int64
    )  # 64 · 255² + …: 2^22 − 1, 2^22, 2^22 + 1, and far beyond 2^24
    for i, total in enumerate([2**22 - 1, 2**22, 2**22 + 1, 2**24 + 1]):
        for k in range(900):
            rows[i, k] = min(255, math.isqrt(total))
            total -= int(rows[i, k]) ** 2
        assert total == 0
    counts = torch.cat([counts, rows])
    squares = torch.empty(len(counts), dtype=torch.float64)
    assert torch.equal(as_counts(counts.to(dtype), squares).long(), counts)
    assert torch.equal(squares.long(), counts.square().sum(1))
    assert torch.equal(as_covariance(TanimotoDotProduct()).prepare(counts.to(dtype)).parts["norms"], squares)


def test_preparing_takes_one_pass(monkeypatch, generator):
    """Each number of float fingerprints is written once, as a byte, and read where it is at hand."""
    x = torch.randint(0, 3, (64, 1024), generator=generator).float()
    written: list[int] = []
    copy = torch.Tensor.copy_
    monkeypatch.setattr(
        torch.Tensor, "copy_", lambda to, piece: (written.append(to.numel()), copy(to, piece))[1]
    )
    seen: list[int] = []
    norm = torch.linalg.vector_norm
    monkeypatch.setattr(
        torch.linalg, "vector_norm", lambda y, dim: (seen.append(y.numel()), norm(y, dim=dim))[1]
    )
    as_covariance(TanimotoDotProduct()).prepare(x)
    assert sum(written) == sum(seen) == x.numel()
    assert max(written + seen) < 2**15  # a piece that the caches hold


@pytest.mark.parametrize("kind", [TanimotoMinMax, TanimotoDotProduct])
def test_float_fingerprints_are_prepared_as_what_they_are(kind, generator):
    """Whole ones as counts and fractional ones as they are, with the values of the formulas and the same refusals."""
    covariance = as_covariance(kind())
    counts = torch.randint(0, 4, (5, 40), generator=generator)
    exact = covariance.block(counts.to(torch.uint8))
    assert set(covariance.prepare(counts.double()).parts) >= {"counts"}
    torch.testing.assert_close(covariance.block(counts.double()).float(), exact)
    halves = covariance.prepare(counts.double() / 2)
    assert set(halves.parts) == {"real"}
    torch.testing.assert_close(
        covariance.block(halves).float(), exact
    )  # similarities do not change with the unit
    for bad in (torch.nan, torch.inf):
        with pytest.raises(InputError, match="NaN or infinite"):
            covariance.prepare(torch.tensor([[1.0, bad]]))
    with pytest.raises(InputError, match="counts as low as -1"):
        covariance.prepare(torch.tensor([[1, -1]]))
