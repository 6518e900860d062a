"""Who proposes the next points: a model with an acquisition function, a campaign, Optuna's sampler, or no one."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from botorch.acquisition import LogExpectedImprovement, qLogExpectedImprovement
from botorch.optim import optimize_acqf
from botorch.sampling.pathwise import get_matheron_path_model
from botorch.utils.sampling import optimize_posterior_samples
from torch import Tensor

from lib.objectives import INITIAL, Problem
from lib.surrogates import BOTORCH, MANY, MIXES, OURS, SURROGATES, fit_botorch, learnt
from sggp.bayesopt import Box, Campaign

__all__ = ["BATCH", "MODELS", "STRATEGIES", "Proposer", "make_proposer", "settings"]

RESTARTS, RAW_SAMPLES = 8, 256
"""Of `optimize_acqf`, for every model."""
PATH_RESTARTS, PATH_RAW_SAMPLES = 20, 1024
"""Of `optimize_posterior_samples`: its own defaults, said here."""
BATCH = {"logei": 1, "qlogei": 4, "thompson": 4}
CAMPAIGN, OPTUNA, RANDOM = "ours, campaign", "Optuna GPSampler", "random"
STRATEGIES: dict[str, tuple[str, ...]] = {
    "logei": (OURS, BOTORCH, OPTUNA, RANDOM, *MIXES),
    "qlogei": (OURS, MANY, BOTORCH, RANDOM, *MIXES),
    "thompson": (OURS, CAMPAIGN, BOTORCH, RANDOM, *MIXES),
}
"""Which models take part."""
MODELS = (OURS, CAMPAIGN, BOTORCH, OPTUNA, RANDOM)


def settings() -> str:
    """What is the same for all, in two lines."""
    return (
        f"initial points {INITIAL} (scrambled Sobol); optimize_acqf: {RESTARTS} restarts, {RAW_SAMPLES} raw samples, "
        "batches point after point;\npaths: optimize_posterior_samples with "
        f"{PATH_RESTARTS} restarts, {PATH_RAW_SAMPLES} raw samples (the campaign has its own search)"
    )


class Proposer(ABC):
    """Proposes points of one problem. `fit`, then `suggest`; each is timed by the caller."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def fit(self, x: Tensor, y: Tensor, seed: int) -> None:
        """Take in all measurements so far."""
        self.x, self.y = x, y

    @abstractmethod
    def suggest(self, q: int) -> Tensor:
        """The next q points, (q, d)."""

    def means(self) -> Tensor:
        """Posterior mean at the measured points (n,), of BoTorch's model where the proposer shows none."""
        return means(fit_botorch(self.x, self.y, 0), self.x)

    def learnt(self) -> dict[str, Any] | None:
        """Hyperparameters, where they can be seen."""
        return None


def means(model: Any, x: Tensor) -> Tensor:  # -> (n,)
    with torch.no_grad():
        return model.posterior(x).mean[:, 0]


class ModelProposer(Proposer):
    """A BoTorch model and an acquisition function, the same for every model."""

    def __init__(self, problem: Problem, make: Callable[[Tensor, Tensor, int], Any], strategy: str) -> None:
        super().__init__(problem)
        self.make, self.strategy = make, strategy

    def fit(self, x: Tensor, y: Tensor, seed: int) -> None:
        super().fit(x, y, seed)
        self.model = self.make(x, y, seed)

    def means(self) -> Tensor:
        return means(self.model, self.x)

    def learnt(self) -> dict[str, Any]:
        return learnt(self.model)

    def suggest(self, q: int) -> Tensor:
        bounds = self.problem.bounds
        if self.strategy == "thompson":
            paths = get_matheron_path_model(self.model, sample_shape=torch.Size([q]))
            return optimize_posterior_samples(paths, bounds, PATH_RAW_SAMPLES, PATH_RESTARTS)[0].detach()
        # where there is noise the best mean among the measured points is the incumbent, for every model
        best = self.y.max() if self.problem.noise == "exact" else self.means().max()
        kind = LogExpectedImprovement if self.strategy == "logei" else qLogExpectedImprovement
        found, _ = optimize_acqf(
            kind(self.model, best_f=best),
            bounds,
            q=q,
            num_restarts=RESTARTS,
            raw_samples=RAW_SAMPLES,
            sequential=q > 1,
        )
        return found.detach()


class CampaignProposer(Proposer):
    """`sggp.bayesopt` as a user calls it: a campaign over a box, attached to the initial measurements."""

    def __init__(self, problem: Problem, folder: Path) -> None:
        super().__init__(problem)
        self._asked: list[Any] = []
        self._campaign = Campaign(
            Box([[0.0, 1.0]] * problem.dimension),
            folder / "campaign.db",
            maximize=True,
            num_initial=INITIAL,
            seed=problem.seed,
        )

    def fit(self, x: Tensor, y: Tensor, seed: int) -> None:
        super().fit(x, y, seed)
        if not self._asked:
            self._campaign.attach_many(zip(x.tolist(), y.tolist(), strict=True))
        else:
            fresh = y[-len(self._asked) :].tolist()
            self._campaign.tell_many(
                (trial.id, value) for trial, value in zip(self._asked, fresh, strict=True)
            )

    def suggest(self, q: int) -> Tensor:
        self._asked = self._campaign.ask(q)
        return torch.tensor([trial.x for trial in self._asked], dtype=torch.float64)

    def means(self) -> Tensor:
        return self._campaign.model(generator=0).predict(self.x)[0]


class OptunaProposer(Proposer):
    """Optuna's Gaussian process sampler with its defaults, given the same initial measurements; LogEI inside."""

    def __init__(self, problem: Problem) -> None:
        import optuna

        super().__init__(problem)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = {
            f"x{j}": optuna.distributions.FloatDistribution(0.0, 1.0) for j in range(problem.dimension)
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.GPSampler(seed=problem.seed, n_startup_trials=INITIAL)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._trial = optuna.trial.create_trial
        self._pending: Any = None

    def fit(self, x: Tensor, y: Tensor, seed: int) -> None:
        super().fit(x, y, seed)
        if self._pending is not None:
            self._study.tell(self._pending, float(y[-1]))
            return
        for point, value in zip(x.tolist(), y.tolist(), strict=True):
            params = dict(zip(self._space, point, strict=True))
            self._study.add_trial(self._trial(params=params, distributions=self._space, value=value))

    def suggest(self, q: int) -> Tensor:
        if q != 1:
            raise ValueError(f"Optuna's sampler proposes one point after the other, got q = {q}.")
        self._pending = self._study.ask(self._space)
        return torch.tensor([[self._pending.params[name] for name in self._space]], dtype=torch.float64)


class SobolProposer(Proposer):
    """The initial design's own sequence, continued."""

    def suggest(self, q: int) -> Tensor:
        return self.problem.design(len(self.x) + q)[-q:]


def make_proposer(problem: Problem, strategy: str, model: str, folder: Path) -> Proposer:
    """The proposer of a model's name under a strategy of `STRATEGIES`; a campaign is kept in `folder`."""
    if model in SURROGATES:
        return ModelProposer(problem, SURROGATES[model], strategy)
    if model == CAMPAIGN:
        return CampaignProposer(problem, folder)
    return {OPTUNA: OptunaProposer, RANDOM: SobolProposer}[model](problem)
