"""The linear model of a classifier: Newton steps to its own optimum, with the prior precision learnt on the way."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from sggp.linear.design import Design
from sggp.linear.expectation import EvidenceOptions, Outcome, Step, Target, evidence_steps
from sggp.linear.features import batches
from sggp.linear.jacobian import JacobianFeatures
from sggp.linear.model import BayesianLinearModel

__all__ = ["refine_softmax", "softmax_root"]

_HALVINGS = 10


def softmax_root(p: Tensor) -> Tensor:  # (n, o) -> (n, o, o)
    """L = diag(√p) − p√pᵀ, for which LLᵀ = diag(p) − ppᵀ."""
    roots = p.sqrt()
    return torch.diag_embed(roots) - p[:, :, None] * roots[:, None, :]


def refine_softmax(
    model: BayesianLinearModel,
    features: JacobianFeatures,
    classes: Tensor,
    settings: EvidenceOptions,
    seeds: tuple[int, int],
) -> tuple[Design, Outcome]:
    """Minimise the penalised cross entropy of f(x, θ*) + J(x)(w − θ*) over w, with α ← γ̂/‖w‖² after each step.

    A step solves one linear model, at the softmax Hessian of the w reached, and is halved while the objective grows.
    Random numbers are the same at every step, and the last solution starts the next.

    Args:
        model: of the prior scale.
        features: J and f at the training inputs.
        classes: (n, o) one-hot, in the features' dtype.
        settings: `max_steps` bounds the Newton steps; `step_tolerance` the relative changes of w and α.
        seeds: of the prior scale and of the samples.

    Returns:
        The design at the Hessian of the last step, and what it gave.
    """
    centre = torch.cat([features.outputs(rows) for rows in batches(features)])
    w = features.weights[:, None]
    logits, product = centre, _product(features, w)
    alpha = settings.prior_precision
    start: Tensor | None = None
    # the scale is that at θ*: one that followed B would grow with the certainty it allows
    first = model._design(features, softmax_root(centre.softmax(1)), torch.Generator().manual_seed(seeds[0]))
    scale = torch.ones_like(w) if first.scale is None else first.scale
    trace: list[Step] = []
    while True:
        p = logits.softmax(1)
        design = Design(features, softmax_root(p), scale[:, 0])
        information = p * product - p * (p * product).sum(1, keepdim=True) + classes - p
        target = Target.of_information(design, information)
        once = replace(settings, prior_precision=alpha, max_steps=1, start=start)
        outcome = evidence_steps(design, target, once, torch.Generator().manual_seed(seeds[1]))
        trace.append(outcome.trace[0])
        move = scale * outcome.mean[:, None].to(w) - w
        along = _product(features, move)
        alpha = outcome.trace[0].prior_precision
        size = _step_size(logits, along, classes, alpha, w / scale, move / scale)
        w, logits, product = w + size * move, logits + size * along, product + size * along
        norm = float((w / scale).norm())
        change = size * float((move / scale).norm()) / max(norm, 1e-300)
        gamma = outcome.trace[0].effective_dimension
        new = gamma / norm**2 if settings.prior_precision is None and gamma > 0 and norm > 0 else alpha
        settled = size == 1.0 and max(change, abs(math.log(new / alpha))) <= settings.step_tolerance
        if settled or len(trace) >= settings.max_steps:
            return design, replace(outcome, trace=tuple(trace), settled=settled)
        alpha, start = new, torch.cat([outcome.mean[:, None], outcome.samples], dim=1)


def _product(features: JacobianFeatures, w: Tensor) -> Tensor:  # (D, 1) -> (n, o)
    return torch.cat([features.apply(w, rows)[..., 0] for rows in batches(features)])


def _step_size(
    logits: Tensor, along: Tensor, classes: Tensor, alpha: float, w: Tensor, move: Tensor
) -> float:
    """1, or the first of its halvings that does not raise the penalised cross entropy."""

    def objective(t: float) -> float:
        f = (logits + t * along).double()
        misfit = (f.logsumexp(1) - (f * classes.double()).sum(1)).sum()
        return float(misfit + 0.5 * alpha * (w + t * move).double().square().sum())

    begin, size = objective(0.0), 1.0
    for _ in range(_HALVINGS):
        if objective(size) <= begin * (1 + 1e-6):
            break
        size /= 2
    return size
