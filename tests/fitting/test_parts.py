"""The sum of one kernel for each part of a fingerprint: its values, its features, and the weights that data choose."""

import numpy as np
import pytest
import torch

from sggp.bayesopt.surrogate import fit_surrogate
from sggp.errors import DtypeError, InputError
from sggp.fitting.parts import parts_kernel, summed, weights_of
from sggp.hyperparameters.exact.fit import exact_log_marginal_likelihood
from sggp.hyperparameters.gram import gram_function
from sggp.kernels import as_covariance, draw_features
from tests.oracles import rbf, tanimoto_minmax

WIDTH = 60
PARTS = {"a": (0, WIDTH), "b": (WIDTH, 2 * WIDTH), "descriptors": (2 * WIDTH, 2 * WIDTH + 4)}


def molecules(n, seed, width=WIDTH):
    """Rows of which each part has a family of its own: near to its like, far from the others, and descriptors."""
    generator = np.random.default_rng(seed)
    rows = np.zeros((n, 2 * width + 4), dtype=np.uint8)
    for start in (0, width):
        families = generator.poisson(0.5, (12, width))
        rows[:, start : start + width] = families[generator.integers(12, size=n)] + generator.poisson(
            0.05, (n, width)
        )
    rows[:, 2 * width :] = generator.normal(128, 30, (n, 4)).clip(0, 255).round()
    return torch.from_numpy(rows)


def dense(x, z, weights, lengthscale):
    """The sum by hand, in float64."""
    total = np.zeros((len(x), len(z)))
    x, z = x.numpy().astype(float), z.numpy().astype(float)
    for (name, (start, stop)), weight in zip(PARTS.items(), weights, strict=True):
        a, b = x[:, start:stop], z[:, start:stop]
        if name == "descriptors":
            r = np.linalg.norm(a[:, None] - b, axis=2) / lengthscale
            total += weight * rbf(r)
        else:
            total += weight * tanimoto_minmax(a, b)
    return total


def kernel_with(weights, scale, lengthscale):
    kernel = parts_kernel(PARTS)
    for term, weight in zip(kernel.base_kernel.kernels, weights, strict=True):
        term.outputscale = torch.tensor(weight, dtype=torch.float64)
    kernel.outputscale = torch.tensor(scale, dtype=torch.float64)
    kernel.base_kernel.kernels[2].base_kernel.lengthscale = torch.tensor(lengthscale, dtype=torch.float64)
    return kernel


def test_the_kernel_is_the_sum_by_hand():
    x, weights = molecules(40, 0), (0.7, 0.2, 0.4)
    kernel = kernel_with(weights, 1.7, 33.0)
    expected = 1.7 * dense(x, x[:15], weights, 33.0)
    for form in (kernel, summed(kernel)):
        covariance = as_covariance(form, dtype=torch.float64)
        np.testing.assert_allclose(covariance.block(x, x[:15]).numpy(), expected, rtol=1e-12, atol=1e-12)
        v = torch.randn(15, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        np.testing.assert_allclose(
            covariance.matmul(x, x[:15], v).numpy(), expected @ v.numpy(), rtol=0, atol=1e-11
        )
        np.testing.assert_allclose(covariance.diagonal(x).numpy(), 1.7 * sum(weights), rtol=1e-12)
        assert covariance.scale == pytest.approx(1.7 * sum(weights), rel=1e-12)
        small = covariance.small_blocks(x[:12].reshape(3, 4, -1))
        np.testing.assert_allclose(
            small[1].numpy(), 1.7 * dense(x[4:8], x[4:8], weights, 33.0), rtol=1e-12, atol=1e-12
        )
    assert weights_of(kernel, PARTS) == pytest.approx({"a": 7 / 13, "b": 2 / 13, "descriptors": 4 / 13})


def test_parts_of_no_account_are_left_out_of_predictions():
    x, weights = molecules(30, 3), (0.7, 2e-3, 0.4)
    kernel = kernel_with(weights, 1.3, 33.0)
    form = summed(kernel)
    assert len(form.kernels) == 2
    found = as_covariance(form, dtype=torch.float64).block(x).numpy()
    np.testing.assert_allclose(found, 1.3 * dense(x, x, (0.7, 0.0, 0.4), 33.0), rtol=1e-12, atol=1e-12)
    assert weights_of(kernel, PARTS)["b"] == pytest.approx(2e-3 / 1.102)


def test_the_matrix_that_is_learnt_from_and_its_derivatives():
    """Closed form against differences of the sum by hand, in every parameter."""
    x, start = molecules(25, 1), np.log([0.7, 0.2, 0.4, 1.7, 33.0])
    sensitivity = torch.randn(25, 25, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def value(u):
        *weights, scale, lengthscale = np.exp(u)
        return float((sensitivity.numpy() * scale * dense(x, x, weights, lengthscale)).sum())

    *weights, scale, lengthscale = np.exp(start)
    kernel = kernel_with(weights, scale, lengthscale)
    gram = gram_function(kernel)
    for _ in range(2):  # the second time what does not change is remembered
        kernel.zero_grad()
        total = (sensitivity * gram(x)).sum()
        total.backward()
    assert float(total.detach()) == pytest.approx(value(start), rel=1e-10)
    terms = kernel.base_kernel.kernels
    owners = [(term.raw_outputscale, term.raw_outputscale_constraint) for term in terms]
    owners.append((kernel.raw_outputscale, kernel.raw_outputscale_constraint))
    owners.append((terms[2].base_kernel.raw_lengthscale, terms[2].base_kernel.raw_lengthscale_constraint))
    for i, (raw, constraint) in enumerate(owners):
        step = np.eye(5)[i] * 1e-5
        slope = (value(start + step) - value(start - step)) / 2e-5
        moved = raw.detach().clone().requires_grad_()
        constraint.transform(moved).log().sum().backward()
        assert float(raw.grad / moved.grad) == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_features_of_the_sum_are_unbiased():
    """φ·φ over M features of a term is its kernel within 5 standard errors, of variance at most 1 a feature."""
    x, weights = molecules(12, 2), (0.7, 0.2, 0.4)
    form = summed(kernel_with(weights, 1.5, 40.0))
    features = draw_features(form, 60_000, input_dim=x.shape[1], generator=3).to(dtype=torch.float64)
    found = features.phi(x)
    error = np.abs((found @ found.T).numpy() - 1.5 * dense(x, x, weights, 40.0))
    # a third of the features for each term; those of the RBF come in pairs
    bound = 5 * 1.5 * np.sqrt(0.7**2 / 20_000 + 0.2**2 / 20_000 + 0.4**2 / 10_000)
    assert error.max() < bound


@pytest.mark.parametrize("truth", list(PARTS))
@pytest.mark.parametrize("seed", range(2))
def test_the_part_that_holds_the_signal_gets_the_weight(truth, seed):
    """Targets are drawn from one part's kernel; what is learnt is at least as likely as what was planted."""
    x = molecules(150, 10 + seed)
    planted = [2.0 if name == truth else 1e-3 for name in PARTS]
    gram = torch.from_numpy(dense(x, x, planted, 40.0)) + 0.02 * torch.eye(len(x))
    draw = torch.randn(len(x), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    y = torch.linalg.cholesky(gram) @ draw
    model = fit_surrogate(x, y, num_samples=1, generator=seed, kernel=PARTS)
    assert max(model.weights, key=model.weights.get) == truth
    assert sum(model.weights.values()) == pytest.approx(1.0)
    learnt = exact_log_marginal_likelihood(
        model.posterior.kernel, x, model.target, noise_variance=model.posterior.noise_variance, mean=None
    )
    flat = exact_log_marginal_likelihood(parts_kernel(PARTS), x, model.target, noise_variance=0.22, mean=None)
    assert learnt > flat


def test_many_molecules_move_the_weights_further_than_few():
    x = molecules(300, 5)
    gram = torch.from_numpy(dense(x, x, [2.0, 1e-3, 1e-3], 40.0)) + 0.02 * torch.eye(len(x))
    y = torch.linalg.cholesky(gram) @ torch.randn(
        300, dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    )
    few, many = (
        fit_surrogate(x[:n], y[:n], num_samples=1, generator=0, kernel=PARTS).weights["a"] for n in (20, 300)
    )
    assert 1 / 3 < few < many


def test_no_signal_leaves_the_weights_near_equal():
    """A weight at the mode of its prior has log-density 0; e^±1 is two of its standard deviations away."""
    x = molecules(100, 6)
    y = torch.randn(100, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    weights = fit_surrogate(x, y, num_samples=1, generator=0, kernel=PARTS).weights
    assert max(weights.values()) / min(weights.values()) < np.e


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_few_molecules_make_a_model(n):
    x, y = molecules(n, 7), torch.arange(n, dtype=torch.float64) + 3.0
    model = fit_surrogate(x, y, num_samples=2, generator=0, kernel=PARTS)
    mean, std = model.predict(molecules(9, 8))
    assert bool(torch.isfinite(mean).all())
    assert bool((std >= 0).all())
    assert model.learned == (n >= 4)
    assert model.weights.keys() == PARTS.keys()


def test_paths_and_predictions_do_not_depend_on_the_blocks():
    x, y = molecules(30, 9), torch.linspace(0, 1, 30, dtype=torch.float64)
    model = fit_surrogate(x, y, num_samples=3, generator=0, kernel=PARTS)
    queries = molecules(25, 10)
    whole, paths = model.predict(queries), model.posterior.samples(queries)
    pieces = [model.predict(part) for part in queries.split(7)]
    for i in (0, 1):
        torch.testing.assert_close(torch.cat([piece[i] for piece in pieces]), whole[i], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        torch.cat([model.posterior.samples(part) for part in queries.split(7)], 1),
        paths,
        rtol=1e-4,
        atol=1e-5,
    )


def test_leave_one_out_is_that_of_the_sum():
    """Each molecule left out in turn, its prediction made by hand from all the others."""
    x = molecules(30, 11)
    y = torch.from_numpy(np.random.default_rng(0).normal(size=30)) + x[:, 0].double()
    model = fit_surrogate(x, y, num_samples=1, generator=0, kernel=PARTS)
    terms = model.posterior.kernel.kernels[0].kernels
    scales = [float(term.outputscale) for term in terms]
    gram = dense(x, x, scales, float(terms[2].base_kernel.lengthscale))
    gram += 4 * sum(scales)  # the constant mean is not known, see `with_unknown_constant`
    noise, target = float(model.posterior.noise_variance.max()), model.target.numpy() - model.mean
    mean, std = model.leave_one_out()
    for i in (0, 7, 29):
        others = np.arange(30) != i
        inner = gram[np.ix_(others, others)] + noise * np.eye(29)
        weights = np.linalg.solve(inner, gram[others, i])
        by_hand = model.offset + model.scale * (model.mean + weights @ target[others])
        assert float(mean[i]) == pytest.approx(by_hand, abs=1e-6)
        variance = gram[i, i] + noise - weights @ gram[others, i]
        assert float(std[i]) == pytest.approx(model.scale * variance**0.5, rel=1e-6)


def test_more_rows_than_the_exact_fit_takes_are_learnt_from_some(monkeypatch):
    monkeypatch.setattr("sggp.bayesopt.surrogate.EXACT_ROWS", 40)
    x = molecules(90, 12)
    y = x[:, :5].double().sum(1)
    model = fit_surrogate(x, y, num_samples=1, generator=0, kernel=PARTS)
    assert len(model.target) == 90
    assert model.weights["a"] > model.weights["b"]


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ({}, InputError),
        ({"a": (0, 125)}, InputError),
        ({"a": (5, 5)}, InputError),
        ({"a": (-1, 5)}, InputError),
        ({"a": 5}, DtypeError),
        ({"a": ("x", 5)}, DtypeError),
    ],
)
def test_parts_that_are_none_are_refused(parts, error):
    with pytest.raises(error, match="parts must be"):
        fit_surrogate(molecules(5, 0), torch.arange(5.0), num_samples=1, kernel=parts)
