"""Hash features of T_MM and lattice features of T_DP: exact diagonals, variances, every kind of input."""

from __future__ import annotations

import gpytorch.kernels as gk
import numpy as np
import pytest
import torch
from torch import Tensor

from sggp.errors import InputError
from sggp.kernels import TanimotoDotProduct, TanimotoMinMax, draw_features
from sggp.kernels.features import minhash, prf
from tests.oracles import tanimoto_dot_product, tanimoto_minmax

COUNTS = torch.tensor(
    [[0, 0, 0, 0, 0], [1, 3, 0, 0, 2], [2, 1, 2, 0, 0], [2, 1, 2, 1, 0], [9, 0, 0, 7, 1], [0, 0, 0, 0, 1]]
)
REALS = {
    "fractions": COUNTS.double().sqrt(),
    "small": COUNTS.double() * 0.017,
    "large": COUNTS.double() * 137.3,
    "huge": COUNTS.double() * 1.7e7,
    "signed": torch.tensor(
        [[0.0, 0, 0], [1.5, -0.5, 2], [1, 0.5, 2], [-1.5, 0.5, 2], [1.25, -0.5, 0]]
    ).double(),
}


def min_max(num_features: int, input_dim: int, generator: torch.Generator) -> minhash.MinHashMap:
    return draw_features(TanimotoMinMax(), num_features, input_dim=input_dim, generator=generator)


def both_signs(x: Tensor) -> np.ndarray:
    return torch.cat((x.clamp(min=0), (-x).clamp(min=0)), -1).numpy()


def estimates(features: Tensor, target: np.ndarray, width: float = 4.5) -> bool:
    """φ(x)·φ(z) over M independent hashes is T within `width` standard errors √((1 − T²)/M), exactly where T = 1."""
    exact = torch.from_numpy(target)
    error = (features @ features.mT - exact).abs()
    return bool((error <= width * ((1 - exact**2) / features.shape[-1]).clamp(min=0).sqrt() + 1e-9).all())


def test_min_hash_of_counts(generator: torch.Generator) -> None:
    phi = min_max(200_000, 5, generator).phi(COUNTS.double())
    assert estimates(phi, tanimoto_minmax(COUNTS.numpy(), COUNTS.numpy()))


@pytest.mark.parametrize("kind", REALS)
def test_min_hash_of_real_weights(kind: str, generator: torch.Generator) -> None:
    x = REALS[kind]
    phi = min_max(20_000, x.shape[1], generator).phi(x)
    assert estimates(phi, tanimoto_minmax(both_signs(x), both_signs(x)))


def test_counts_and_reals_share_one_hash(generator: torch.Generator) -> None:
    """A library of counts against a query of real weights: the two routes must agree on who rings first."""
    near = COUNTS[1:].double() + 1e-9 * (COUNTS[1:] > 0)
    features = min_max(3000, 5, generator)
    assert (features.phi(near) != features.phi(COUNTS[1:].double())).double().mean() < 1e-3
    mixed = COUNTS[1:].double() * 1.3
    left, right = min_max(100_000, 5, generator), COUNTS[1:]
    product = left.phi(mixed) @ left.phi(right.double()).mT
    exact = torch.from_numpy(tanimoto_minmax(mixed.numpy(), right.numpy()))
    assert bool(((product - exact).abs() < 4.5 * ((1 - exact**2) / 100_000).sqrt()).all())


def test_exact_diagonal_and_empty_rows(generator: torch.Generator) -> None:
    kernel = gk.ScaleKernel(TanimotoMinMax())
    kernel.outputscale = 2.5
    features = draw_features(kernel, 96, input_dim=5, generator=generator)
    phi = features.phi(COUNTS.to(torch.uint8))
    assert phi.dtype == torch.float32
    torch.testing.assert_close(phi.square().sum(-1), torch.full((6,), 2.5))
    assert set(np.round(phi.abs().unique().numpy(), 6)) == {np.float32(round((2.5 / 96) ** 0.5, 6))}


def test_per_feature_variance_is_one_minus_t_squared(generator: torch.Generator) -> None:
    signs = min_max(40_000, 5, generator).signs(COUNTS).double()
    exact = torch.from_numpy(tanimoto_minmax(COUNTS.numpy(), COUNTS.numpy()))
    products = signs[:, None] * signs[None]
    torch.testing.assert_close(products.var(-1), 1 - exact**2, atol=0.02, rtol=0)


def test_hashes_are_independent_of_one_another(generator: torch.Generator) -> None:
    """The mean of 32 hashes has 1/32 of the variance of one: keys are not shared, features are not copies."""
    exact = tanimoto_minmax(COUNTS[1:2].numpy(), COUNTS[2:3].numpy()).item()
    signs = min_max(64_000, 5, generator).signs(COUNTS[1:3]).double().reshape(2, 2000, 32)
    spread = (signs[0] * signs[1]).mean(-1).var()
    assert abs(float(spread) / ((1 - exact**2) / 32) - 1) < 0.15
    lag = (signs[0, :, :-1] * signs[0, :, 1:]).mean()
    assert abs(float(lag)) < 4 / (2000 * 31) ** 0.5


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.float32, torch.float64])
def test_the_same_counts_in_any_dtype_give_the_same_signs(
    dtype: torch.dtype, generator: torch.Generator
) -> None:
    features = min_max(64, 5, generator)
    assert torch.equal(features.signs(COUNTS.to(dtype)), features.signs(COUNTS.to(torch.uint8)))


def test_rows_do_not_depend_on_their_batch_mates(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.poisson(torch.full((40, 30), 0.4), generator=generator)
    x[::4] *= 1.3
    x[7] *= 40
    x[11] = 0
    features = min_max(200, 30, generator)
    whole = features.signs(x)
    assert torch.equal(whole, torch.cat([features.signs(row[None]) for row in x]))
    assert torch.equal(whole, features.signs(x.reshape(2, 20, 30)).reshape(40, 200))
    monkeypatch.setattr(minhash, "_CHUNK_ROWS", 7)
    monkeypatch.setattr(minhash, "_TABLE_BYTES", 2000)
    assert torch.equal(whole, features.signs(x))


def test_a_count_above_255_in_a_wide_integer(generator: torch.Generator) -> None:
    x = torch.tensor([[300, 5], [700, 0], [256, 5], [255, 5]])
    features = min_max(30_000, 2, generator)
    assert torch.equal(features.signs(x), features.signs(x.double()))
    assert estimates(features.phi(x.double()), tanimoto_minmax(x.numpy(), x.numpy()))


def test_wide_sparse_rows_need_no_table(generator: torch.Generator) -> None:
    x = torch.zeros(2, 300_000, dtype=torch.uint8)
    x[0, [5, 299_999]] = 1
    x[1, [5, 17]] = 1
    features = min_max(4000, 300_000, generator)
    assert features.keys.numel() == 8000
    phi = features.phi(x)
    assert abs(float(phi[0] @ phi[1]) - 1 / 3) < 4.5 * (8 / 9 / 4000) ** 0.5


@pytest.mark.parametrize("kernel", [TanimotoMinMax(), TanimotoDotProduct()], ids=["min-max", "dot-product"])
def test_bad_rows_are_refused(kernel: gk.Kernel, generator: torch.Generator) -> None:
    features = draw_features(kernel, 8, input_dim=2, generator=generator)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="finite"):
            features.phi(torch.tensor([[1.0, bad]]))
    with pytest.raises(InputError, match="counts"):
        features.phi(torch.tensor([[1, -1]]))


def test_no_rows_give_no_features(generator: torch.Generator) -> None:
    for kernel in (TanimotoMinMax(), TanimotoDotProduct(), gk.RBFKernel()):
        features = draw_features(kernel, 8, input_dim=2, generator=generator)
        assert features.phi(torch.zeros(0, 2)).shape == (0, 8)
        assert features.apply(torch.zeros(0, 2), torch.ones(8, 3)).shape == (0, 3)


def test_prf_bits_are_balanced_and_unrelated() -> None:
    keys = prf.draw_keys(512, torch.Generator().manual_seed(3))
    codes = prf.element_codes(torch.arange(500), 1)
    assert len(torch.cat((codes, prf.element_codes(torch.arange(500), 2))).unique()) == 1000
    table = prf.table(codes, keys)
    assert torch.equal(table, prf.table(codes.flip(0), keys).flip(0))
    paired = prf.entries(
        codes[:, None].expand(-1, 512).flatten(), keys[:, None].expand(2, 500, 512).flatten(1)
    )
    assert torch.equal(table.flatten(), paired)
    bits = ((table[..., None] >> torch.arange(32)) & 1).double() * 2 - 1
    assert bits.mean((0, 1)).abs().max() < 4.5 / table.numel() ** 0.5
    neighbours = (bits[1:] * bits[:-1]).mean((0, 1)), (bits[:, 1:] * bits[:, :-1]).mean((0, 1))
    assert max(float(part.abs().max()) for part in neighbours) < 4.5 / table.numel() ** 0.5
    assert abs(float(prf.uniform(table).mean()) - 0.5) < 4.5 * (1 / 12 / table.numel()) ** 0.5


@pytest.mark.parametrize("factor", [1e-12, 0.3, 1.0, 1e9])
def test_dot_product_features_at_any_norm(factor: float, generator: torch.Generator) -> None:
    x = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    x[1], x[2], x[4] = x[0] * 1.01, x[0] * 30, 0.0
    x = x * factor
    target = torch.from_numpy(tanimoto_dot_product((x / factor).numpy(), (x / factor).numpy()))
    maps = [draw_features(TanimotoDotProduct(), 128, input_dim=4, generator=generator) for _ in range(200)]
    products = torch.stack([(phi := each.phi(x)) @ phi.mT for each in maps])
    error = (products.mean(0) - target).abs()
    assert bool((error < 4 * products.std(0) / 200**0.5 + 1e-9).all())
    assert float(products[:, 4, 4].sub(1).abs().max()) < 1e-12


def test_dot_product_features_have_the_documented_variance(generator: torch.Generator) -> None:
    x = torch.poisson(torch.full((3, 60), 0.6), generator=generator).double()
    x[1, 10:] = x[0, 10:]
    maps = [draw_features(TanimotoDotProduct(), 64, input_dim=60, generator=generator) for _ in range(800)]
    products = torch.stack([(phi := each.phi(x)) @ phi.mT for each in maps])
    scaled = products.var(0) * 64
    assert float(scaled.diagonal().max()) < 3.2
    assert float(scaled[0, 1]) < 2.5
    assert float(scaled[0, 2]) < 1.8


def test_dot_product_features_in_single_precision(generator: torch.Generator) -> None:
    features = draw_features(TanimotoDotProduct(), 128, input_dim=5, generator=generator)
    double = features.phi(COUNTS.double())
    assert (features.phi(COUNTS.float()).double() - double).abs().max() < 1e-5
    assert (
        features.phi(COUNTS.float() * 1e-25).double() - features.phi(COUNTS.double() * 1e-25)
    ).abs().max() < 1e-4


def test_dot_product_features_have_gradients_even_at_zero(generator: torch.Generator) -> None:
    features = draw_features(TanimotoDotProduct(), 8, input_dim=3, generator=generator)
    x = torch.randn(3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(features.phi, (x,))
    zero = torch.zeros(1, 3, requires_grad=True)
    features.phi(zero).sum().backward()
    assert torch.equal(zero.grad, torch.zeros(1, 3))
