"""Models of outcomes of which some are known on one side only, such as ">10" or "<0.1".

A censored value is f + ε beyond its bound. The hyperparameters are learnt by stochastic EM: the values are drawn given
the bounds and all other data under the last hyperparameters, and the usual fit learns from the completed table, noise
included, a few times over; the first model is that of the values alone. Given those, each bound is turned by
expectation propagation into a pseudo-measurement (`sggp.bayesopt.outcomes.sites`), so that mean, variance and paths are
those of one more plain posterior.

Why so: the likelihood is log-concave, where expectation propagation is close to exact and Laplace's method is skewed by
the flat side; single imputation of the mean would make noise and variance too small, draws do not; and both steps leave
learning and solving to what does them for complete data, at any number of rows.

Source: Tobin 1958 (the likelihood); Celeux & Diebolt 1985 (stochastic EM); Groot & Lucas 2012 (expectation propagation
for censored Gaussian processes); Hutter, Hoos & Leyton-Brown 2011 (censored values in a search's model).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sggp.bayesopt.outcomes.sites import Sites, one_sided_sites
from sggp.bayesopt.outcomes.tables import BeliefSettings, Table, fit_table
from sggp.bayesopt.surrogate import Surrogate
from sggp.linalg import cholesky
from sggp.posterior import condition
from sggp.random import streams

_ROUNDS, _FEW_ROUNDS = 3, 2  # of drawing and learning
_MANY_ROWS = 1500
_ALONE = 8  # values that are not censored from which on a first model is learnt from them
_LEAST_NOISE = 1e-6


def fit_censored(table: Table, settings: BeliefSettings, generator: torch.Generator) -> Surrogate:
    """The model of a table with censored values; without any, `fit_table`.

    Returns:
        A surrogate whose `target` holds pseudo-values where values were censored, with their noise in its posterior.

    Cost: three or four fits, and k³ flops for each of some ten sweeps over k censored values.
    """
    if not bool(table.censored.any()):
        return fit_table(table, table.value, settings, generator)
    learn, draw, final = streams(generator, "completed", "values", "posterior")
    fast = replace(settings, num_samples=0)
    exact = table.part(~table.censored)
    start = exact if len(exact) >= _ALONE else table  # bounds for values only where there is little else
    model = fit_table(start, start.value, fast, learn)
    for _ in range(_ROUNDS if len(table) <= _MANY_ROWS else _FEW_ROUNDS):
        value = _drawn(table, model, _sites(table, model), draw)
        model = fit_table(table, value, fast, learn)
    sites, censored = _sites(table, model), table.censored
    target = (table.value - model.offset) / model.scale
    target[censored] = sites.value
    noise = _row_noise(table, model)
    noise[censored] = sites.noise
    posterior = condition(
        model.posterior.kernel,
        table.x,
        target,
        noise_variance=noise,
        mean=model.mean,
        solver=model.posterior.options.solver,
        num_samples=settings.num_samples,
        num_features=settings.num_features,
        generator=final,
    )
    new_noise = (model.noise_std / model.scale) ** 2
    return replace(
        model,
        posterior=posterior,
        x=table.x,
        target=target,
        new_noise=new_noise,
        told=table.value,
        side=table.side,
    )


def _row_noise(table: Table, model: Surrogate) -> Tensor:  # (n,)
    """Noise variances in the model's units: as known, else that of a new measurement."""
    known = table.noise_std.nan_to_num(model.noise_std) / model.scale
    return known.square().clamp_min(_LEAST_NOISE)


def _sites(table: Table, model: Surrogate) -> Sites:
    """The bounds as pseudo-measurements given all values that are not censored, in the model's units."""
    censored, noise = table.censored, _row_noise(table, model)
    limit = (table.value[censored] - model.offset) / model.scale
    x = table.x[censored]
    if bool(censored.all()):
        mean = torch.full_like(limit, model.mean)
        covariance = model.posterior.covariance.block(x).detach().double()
    else:
        given = ~censored
        base = condition(
            model.posterior.kernel,
            table.x[given],
            (table.value[given] - model.offset) / model.scale,
            noise_variance=noise[given],
            mean=model.mean,
            solver=model.posterior.options.solver,
            num_samples=0,
        )
        mean, covariance = base.mean(x).detach().double(), base.covariance_matrix(x).detach().double()
    return one_sided_sites(mean, covariance, limit, table.side[censored], noise[censored])


def _drawn(table: Table, model: Surrogate, sites: Sites, generator: torch.Generator) -> Tensor:  # (n,)
    """The values, the censored ones drawn beyond their bounds: f from its posterior, then the noise."""
    censored, side = table.censored, table.side[table.censored]
    k = len(side)
    normal = torch.randn(k, generator=generator, dtype=torch.float64)
    uniform = torch.rand(k, generator=generator, dtype=torch.float64).clamp_min(1e-12)
    factor = cholesky(sites.covariance, "the covariance of censored values")
    f = sites.mean + factor @ normal
    std = _row_noise(table, model)[censored].sqrt()
    limit = (table.value[censored] - model.offset) / model.scale
    # the mirrored noise lies below -distance: its quantile function of a uniform share of that tail
    distance = side * (limit - f) / std
    tail = -torch.special.ndtri(uniform * torch.special.ndtr(-distance))
    beyond = torch.where(tail.isfinite(), tail, distance).maximum(distance)
    value = table.value.clone()
    value[censored] = model.offset + model.scale * (f + side * std * beyond)
    return value
