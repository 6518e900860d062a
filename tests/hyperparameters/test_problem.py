"""What every fit is given: checked once, at the entrance; options that a recipe does not know are named."""

import inspect
import re

import pytest
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from gpytorch.priors import LogNormalPrior

from sggp.errors import DtypeError, InputError, ShapeError
from sggp.hyperparameters import (
    fit_em,
    fit_exact,
    fit_iterative,
    fit_nearest_neighbour,
    fit_subset,
    learn_hyperparameters,
    log_marginal_likelihood,
    sample_hyperparameters,
)
from sggp.hyperparameters.problem import CommonOptions, FitProblem

FITS = {
    fit_exact: {"restarts", "max_iterations", "tolerance", "memory_budget"},
    fit_subset: {"subsets", "subset_rows", "max_iterations", "tolerance", "memory_budget"},
    fit_nearest_neighbour: {"neighbours", "batch_size", "max_steps", "learning_rate", "final_learning_rate"}
    | {"evaluation_rows"},
    fit_iterative: {
        "solver",
        "num_probes",
        "num_features",
        "start",
        "max_steps",
        "learning_rate",
        "tolerance",
    }
    | {"solve_tolerance", "max_epochs", "evaluate", "dtype", "memory_budget"},
    fit_em: {"solver", "num_samples", "num_features", "max_steps", "tolerance", "max_epochs", "dtype"}
    | {"memory_budget"},
    sample_hyperparameters: {"num_samples", "warmup", "thinning", "num_chains", "max_tree_depth"}
    | {"target_acceptance", "memory_budget"},
    log_marginal_likelihood: {"preconditioner", "num_probes", "max_steps", "tolerance", "memory_budget"}
    | {"dtype"},
}
COMMON = {
    "noise_variance",
    "mean",
    "initial_noise_variance",
    "noise_floor",
    "noise_prior",
    "generator",
    "callback",
}
WITHOUT = {
    fit_em: {"noise_prior"},
    log_marginal_likelihood: {"initial_noise_variance", "noise_floor", "noise_prior", "callback"},
}


def kernel():
    return ScaleKernel(RBFKernel())


def table(n=12):
    x = torch.linspace(0, 1, n, dtype=torch.float64)[:, None]
    return x, torch.sin(6 * x[:, 0])


@pytest.mark.parametrize("fit", FITS)
def test_a_recipe_shows_its_options_and_explains_each(fit):
    parameters = inspect.signature(fit).parameters
    assert set(parameters) == {"kernel", "x", "y"} | FITS[fit] | (COMMON - WITHOUT.get(fit, set()))
    for name in parameters:
        assert re.search(rf"\b{name}\b[^.]*:", inspect.getdoc(fit)), name


@pytest.mark.parametrize("fit", FITS)
def test_an_unknown_option_is_refused_by_name_before_anything_else(fit):
    known = min(FITS[fit])
    with pytest.raises(InputError, match=rf"{fit.__name__} has no option 'colour'.*\b{known}\b"):
        fit("no kernel", None, None, colour="red")


@pytest.mark.parametrize(
    ("fit", "option"), [(f, o) for f, options in WITHOUT.items() for o in sorted(options)]
)
def test_an_option_without_effect_is_refused(fit, option):
    with pytest.raises(InputError, match=f"has no option '{option}'"):
        fit(kernel(), *table(), noise_variance=0.1, **{option: None})


@pytest.mark.parametrize(
    ("optimizer", "option", "recipe"),
    [
        ("auto", "max_steps", "fit_exact"),
        ("exact", "batch_size", "fit_exact"),
        ("nearest-neighbour", "max_iterations", "fit_nearest_neighbour"),
        ("subset", "restarts", "fit_subset"),
        ("iterative", "subsets", "fit_iterative"),
        (None, "max_steps", "optimizer=None"),
    ],
)
def test_learning_knows_the_options_of_the_recipe_that_is_chosen(optimizer, option, recipe):
    x, y = table()
    for target in (y, torch.ones_like(y)):  # also where there is nothing to learn
        with pytest.raises(InputError, match=f"{recipe} has no option '{option}'"):
            learn_hyperparameters(kernel(), x, target, optimizer=optimizer, noise_variance=0.1, **{option: 3})


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"noise_variance": "gaussian"}, DtypeError, "noise_variance must be .* got 'gaussian'"),
        ({"noise_variance": torch.tensor([[0.1]])}, ShapeError, r"noise_variance .*\(1, 1\)"),
        ({"noise_variance": float("nan")}, InputError, "noise_variance must be finite"),
        ({"mean": "zero"}, DtypeError, "mean must be"),
        ({"mean": [1.0, 2.0, 3.0]}, InputError, "mean must be a finite number or 1"),
        ({"initial_noise_variance": -0.1}, InputError, "initial_noise_variance .* not negative, got -0.1"),
        ({"noise_floor": float("inf")}, InputError, "noise_floor .* got inf"),
        ({"noise_prior": 0.1}, DtypeError, "noise_prior must be .* got float"),
        ({"callback": "print"}, DtypeError, "callback must be .* got str"),
        ({"generator": "seed"}, DtypeError, "seed"),
        ({"tolerance": "tight"}, InputError, "tolerance must be at least 0, got 'tight'"),
        ({"restarts": -1}, InputError, "restarts must be at least 0, got -1"),
    ],
)
def test_what_is_given_is_checked_at_the_entrance(settings, error, match):
    for fit in (fit_exact, learn_hyperparameters):
        with pytest.raises(error, match=match):
            fit(kernel(), *table(), **settings)


def test_a_problem_is_in_float64():
    x, y = table(20)
    prior = LogNormalPrior(0.0, 1.0)
    given = CommonOptions(noise_variance=0.1, mean=2, noise_prior=prior, generator=3)
    problem = FitProblem.checked(kernel(), x.float(), torch.stack([y, y + 2], 1).float(), given)
    assert (problem.x.dtype, problem.y.dtype) == (torch.float64, torch.float64)
    assert problem.precision(None) == torch.float64
    assert problem.mean.tolist() == [2.0, 2.0]
    assert problem.scale == pytest.approx(float((problem.y - 2.0).square().mean()))
    assert problem.noise_floor == pytest.approx(1e-6 * problem.scale)
    assert problem.starting_noise == pytest.approx(0.1 * problem.scale)
    assert problem.coordinates().raw_noise is None  # it is known
    counts = FitProblem.checked(kernel(), (10 * x).long(), y)
    assert (counts.x.dtype, counts.precision(None)) == (torch.int64, torch.float64)


def test_a_part_has_its_rows_their_noise_and_the_floor_of_all():
    x, y = table(20)
    noise = torch.linspace(0.1, 0.2, 20)
    given = CommonOptions(noise_variance=noise, callback=lambda record: None)
    problem = FitProblem.checked(kernel(), x, y, given)
    for rows in (torch.tensor([5, 2]), torch.arange(20) < 2):
        part = problem.part(rows)
        assert torch.equal(part.x, x[rows])
        assert torch.equal(part.y[:, 0], y[rows])
        assert torch.equal(part.noise, noise.double()[rows])
        assert part.noise_floor == problem.noise_floor
        assert part.scale != problem.scale
        assert part.callback is None
