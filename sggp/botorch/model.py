"""`PathwiseGPModel`: an exact Gaussian process for BoTorch, solved iteratively and sampled by paths."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.models.transforms.input import InputTransform
from botorch.models.transforms.outcome import OutcomeTransform, Standardize
from botorch.posteriors.posterior import Posterior
from botorch.sampling.base import MCSampler
from botorch.utils.datasets import SupervisedDataset
from botorch.utils.types import DEFAULT
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp import fitting
from sggp.autograd import undisturbed
from sggp.botorch.base import OutputsModel
from sggp.botorch.checks import (
    check_learnable,
    check_new_rows,
    check_noise_variances,
    check_settings,
    check_spread,
    check_training_data,
    check_transformed,
    per_output,
)
from sggp.botorch.combined import averaged, of_paths, transformed, untransformed
from sggp.botorch.gaussian import JointGaussianModel
from sggp.botorch.output import Given, OutputGP, SolveSettings
from sggp.botorch.posterior import PathwisePosterior, RoundedPosterior
from sggp.checks import finite_number
from sggp.defaults import NUM_FEATURES, NUM_SAMPLES
from sggp.errors import DtypeError, ShapeError
from sggp.random import as_generator, draw_seed, streams
from sggp.typing import FailurePolicy, Seed

if TYPE_CHECKING:
    from sggp.hyperparameters.auto import Optimizer


class PathwiseGPModel(OutputsModel):
    """An exact GP as a BoTorch model, for data sets and candidate sets that a dense model cannot hold.

    The posterior at X has the solved mean and is sampled by *paths*, functions drawn once per model by Matheron's
    rule (Wilson et al. 2020, "Efficiently sampling functions from Gaussian process posteriors", eq. 12). Every path is
    evaluated at any point without a matrix over the candidates, is differentiable in X, and stays the same in all
    calls. The m outputs are independent processes.

    Args:
        train_X: inputs (n, d), in the units of the caller. Their dtype is that of the answers, and X of another dtype
            is cast to it; the model itself, its parameters and transforms included, is float64 whatever they are.
        train_Y: outcomes (n, m), in raw units.
        train_Yvar: known observation noise variances (n, m), in raw units squared; then no noise is learned.
        covar_module: a GPyTorch kernel, or a sequence of m kernels; copied, not changed. None is the default of
            `sggp.GPRegressor`, a scaled Matérn kernel with one length scale per input. Its units are those after the
            transforms, as in BoTorch's models.
        outcome_transform: BoTorch outcome transform; `Standardize` unless given, None for none.
        input_transform: BoTorch input transform, fitted to `train_X`. Do not put `Normalize` on fingerprints. One with
            parameters (`Warp`) is used with the values it has, where these do not require gradients.
        solver: a solver of `sggp.solvers`; None chooses one from n.
        num_samples: number S >= 2 of paths behind the variance and the registered sampler. More give less Monte Carlo
            error (relative sqrt(2 / S) in a variance) at proportional cost. `rsample` draws more when asked for more.
        num_features: random features per prior path.
        noise_variance: known noise variance, a float or m floats, in the units *after* the outcome transform; None
            learns it.
        mean: constant prior mean in the same units, used when nothing is learned.
        optimizer: how hyperparameters are learned, see `sggp.hyperparameters.learn_hyperparameters`; None uses
            `covar_module`, `noise_variance` (or `train_Yvar`) and `mean` as they are.
        tolerance: relative residual at which a solve has converged, one number or a pair (mean, samples); None is
            the default of `sggp.condition`.
        on_failure: "warn", "raise" or "return" when it has not.
        learning: further arguments for `learn_hyperparameters`.
        generator: seed or generator of everything random in the model. Give the models of one `ModelList` different
            seeds, or their paths will be correlated.

    Raises:
        ShapeError, DtypeError, InputError: what was given cannot be used; the message says why.

    Example:
        >>> import torch
        >>> from sggp.botorch import PathwiseGPModel
        >>> X = torch.rand(20, 2, dtype=torch.float64)
        >>> model = PathwiseGPModel(X, X.sin().sum(-1, keepdim=True), generator=0)
        >>> model.posterior(X[:3]).rsample(torch.Size([4])).shape
        torch.Size([4, 3, 1])
    """

    def __init__(
        self,
        train_X: Tensor,
        train_Y: Tensor,
        train_Yvar: Tensor | None = None,
        covar_module: Kernel | Sequence[Kernel] | None = None,
        outcome_transform: OutcomeTransform | None = DEFAULT,
        input_transform: InputTransform | None = None,
        *,
        solver: Any = None,
        num_samples: int = NUM_SAMPLES,
        num_features: int = NUM_FEATURES,
        noise_variance: float | Sequence[float] | None = None,
        mean: float = 0.0,
        optimizer: Optimizer = "auto",
        tolerance: Any = None,
        on_failure: FailurePolicy = "warn",
        learning: Mapping[str, Any] | None = None,
        generator: Seed = None,
    ) -> None:
        with undisturbed():  # no decorator: Ax reads the names of the arguments
            super().__init__()
            check_training_data(train_X, train_Y, train_Yvar)
            if learning is not None and not isinstance(learning, Mapping):
                raise DtypeError(f"learning must be a mapping of option to value, or None; got {learning!r}.")
            check_settings(num_samples, num_features, optimizer, covar_module, noise_variance, train_Yvar)
            model = fitting.ModelSettings(
                solver=solver,
                num_samples=num_samples,
                num_features=num_features,
                options=dict(learning or {}),
            )
            settings = SolveSettings(model, tolerance, on_failure)
            m = train_Y.shape[-1]
            inputs, targets, noise = self._fit_transforms(
                train_X, train_Y, train_Yvar, input_transform, outcome_transform
            )
            kernels = self._kernels(covar_module, inputs, targets)
            noises = per_output(noise_variance, m, "noise_variance", Real)
            check_noise_variances(noises)
            noises = [None if noise is None else float(noise) for noise in noises]
            root = torch.Generator().manual_seed(draw_seed(as_generator(generator)))
            seeds = [draw_seed(s) for s in streams(root, *(f"output:{j}" for j in range(m)))]
            outputs = [
                OutputGP(
                    inputs,
                    targets[:, j].contiguous(),
                    None if noise is None else noise[:, j].contiguous(),
                    given=Given(kernels[j], noises[j], finite_number(mean, "mean")),
                    settings=settings,
                    seed=seeds[j],
                )
                for j in range(m)
            ]
            self._assemble(outputs, train_X)
            if optimizer is not None:
                self._learn(optimizer)
            self.eval()
            self.solve()  # now: a failure shows here and not inside an acquisition function

    @classmethod
    def construct_inputs(cls, training_data: SupervisedDataset, **options: Any) -> dict[str, Any]:
        """Arguments of the constructor: BoTorch's, of a data set, and any others (Ax's `model_options`) as they are.

        An integer `generator` is mixed with the names of the outcomes, so that the models that Ax builds with the same
        options, one for each outcome, have paths of their own. Where Ax is loaded, it learns how to fit this class.
        """
        if "ax.generators" in sys.modules:
            import_module("sggp.botorch.ax")
        if isinstance(seed := options.get("generator"), int):
            root = torch.Generator().manual_seed(seed)
            options["generator"] = draw_seed(streams(root, "/".join(training_data.outcome_names))[0])
        return {**super().construct_inputs(training_data), **options}

    def _fit_transforms(
        self,
        X: Tensor,
        Y: Tensor,
        Yvar: Tensor | None,
        input_transform: InputTransform | None,
        outcome_transform: OutcomeTransform | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Fit the transforms to the data, keep them, and return the transformed data, all in float64."""
        if (
            outcome_transform is None
            or outcome_transform == DEFAULT
            or isinstance(outcome_transform, Standardize)
        ):
            check_spread(Y)
        X, Y, Yvar = X.double(), Y.double(), None if Yvar is None else Yvar.double()
        with torch.no_grad():
            if input_transform is not None:
                self.input_transform = input_transform.double()
                self.input_transform.train()
                self.input_transform(X)
                given, X = X, self.input_transform.preprocess_transform(X)
                check_transformed(input_transform, "input_transform", train_X=X)
                self._check_transformed(given, X)
            if outcome_transform == DEFAULT:
                size = Y.abs().amax(
                    dim=0
                )  # by the size of the outcomes, not by an absolute number, are they constant
                least = min([1e-14 * float(v) for v in size if v > 0], default=1e-8)
                outcome_transform = Standardize(m=Y.shape[-1], min_stdv=min(least, 1e-8))
            if outcome_transform is not None:
                self.outcome_transform = of_paths(outcome_transform.double())
                self.outcome_transform.train()
                Y, Yvar = self.outcome_transform(Y=Y, Yvar=Yvar, X=X)
                check_transformed(outcome_transform, "outcome_transform", train_Y=Y, train_Yvar=Yvar)
        return X.detach(), Y.detach(), None if Yvar is None else Yvar.detach()

    def _check_transformed(self, given: Tensor, x: Tensor) -> None:
        """Refuse inputs x that the input transform has made something else of than the model takes; all do here."""

    def _kernels(self, given: Any, x: Tensor, y: Tensor) -> list[Kernel | None]:
        """The kernel of each output, None for the default one; x (n, d) and y (n, m) after the transforms."""
        return per_output(given, y.shape[-1], "covar_module", Kernel)

    def _learn(self, optimizer: Optimizer) -> None:
        transforms = ("input_transform", "outcome_transform")
        check_learnable(**{name: getattr(self, name, None) for name in transforms})
        for output in self.output_models:
            output.learn(optimizer)
        self._learned = True

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> Posterior:
        """Posterior at X.

        Args:
            X: points (*b, q, d), in the units of `train_X`; cast to its dtype, which is that of the answers. Once the
                model was cast to another with `.to`, points of that dtype are answered in it.
            output_indices: outputs wanted; None means all.
            observation_noise: True adds the noise of the model (the mean one where it is known per row). A tensor
                broadcastable to (*b, q, m) is a noise variance in transformed units. The noise drawn is the same
                in every call.
            posterior_transform: applied to the result; BoTorch's two linear ones combine the paths, their mean and
                variance are exact where those of the model are.

        Returns:
            A `PathwisePosterior`; with an outcome transform, BoTorch's `TransformedPosterior` around one, in raw units.
        """
        self.eval()
        self.solve()
        X = self.completed(X)
        rows = self.candidates(X)
        dtype, X = self.answers_in(X, self._raw_X.dtype), rows
        chosen = self.output_numbers(output_indices)
        outputs = [self.output_models[j] for j in chosen]
        noise = self.noise_to_add(observation_noise, chosen, X.shape[:-1])
        outcome = getattr(self, "outcome_transform", None)
        posterior, left = averaged(PathwisePosterior(outputs, X, noise), posterior_transform, outcome)
        if outcome is not None and output_indices is not None:
            outcome = outcome.subset_output(chosen)
        posterior = untransformed(posterior, outcome, X)
        if dtype != torch.float64:
            posterior = RoundedPosterior(posterior, dtype)
        return transformed(posterior, left, X)

    def subset_output(self, idcs: list[int]) -> PathwiseGPModel:
        """The model of the outputs numbered `idcs`, sharing what was solved."""
        numbers = self.output_numbers(idcs)
        out = self._sibling([self.output_models[j] for j in numbers], self._raw_X)
        if hasattr(self, "outcome_transform"):
            out.outcome_transform = self.outcome_transform.subset_output(numbers)
        return out.eval()

    def condition_on_observations(
        self, X: Tensor, Y: Tensor, noise: Tensor | None = None, **kwargs: Any
    ) -> PathwiseGPModel:
        """The same model given further observations: same hyperparameters, same prior draws, a warm-started solve.

        Args:
            X: new inputs (n', d), in the units of `train_X`.
            Y: new outcomes (n', m), in raw units; transformed with the constants already fitted.
            noise: noise variances (n', m) in *transformed* units, as BoTorch has it; None repeats the model's own.
            **kwargs: accepted for BoTorch's sake and ignored.

        Raises:
            ShapeError: X or Y has a batch dimension: conditioning is unbatched. `gaussian()` takes batches.
        """
        X, Y, noise = check_new_rows(self.completed(X), Y, noise, self.input_dim, self.num_processes)
        self.eval()
        self._checked_inside(X)  # before an outcome transform looks at a column
        with torch.no_grad():
            if hasattr(self, "outcome_transform"):
                Y, _ = self.outcome_transform(Y=Y.to(X.device, torch.float64), X=X.to(self._raw_X).double())
        return self._with_rows(X, Y, noise)

    def get_fantasy_model(self, inputs: Any, targets: Tensor, noise: Tensor | None = None) -> PathwiseGPModel:
        """`condition_on_observations` in GPyTorch's form, as `ModelListGP` calls it for one output.

        Args:
            inputs: (n', d) in the units of `train_X`, or a list of one such tensor.
            targets: (n',), after the outcome transform.
            noise: noise variances (n',), after it as well; None repeats the model's own.
        """
        if isinstance(inputs, (tuple, list)):
            (inputs,) = inputs
        noise = None if noise is None else noise.unsqueeze(-1)
        rows = self.completed(inputs), targets.unsqueeze(-1), noise
        X, Y, noise = check_new_rows(*rows, self.input_dim, self.num_processes)
        self.eval()
        return self._with_rows(X, Y, noise)

    @undisturbed()
    def _with_rows(self, X: Tensor, Y: Tensor, noise: Tensor | None) -> PathwiseGPModel:
        """The model given further rows, inputs as the user has them and outcomes after the transform."""
        raw = X.to(self._raw_X)
        inputs = self._checked_inside(raw)
        targets = Y.to(inputs)
        outputs = [
            output.updated(inputs, targets[:, j], None if noise is None else noise[:, j].to(inputs))
            for j, output in enumerate(self.output_models)
        ]
        return self._sibling(outputs, torch.cat([self._raw_X, raw])).eval()

    def _checked_inside(self, X: Tensor) -> Tensor:
        """Training rows after the input transform, in float64."""
        with torch.no_grad():
            inside = X.to(self._raw_X).double()
            if hasattr(self, "input_transform"):
                inside = self.input_transform.preprocess_transform(inside)
        self.check_columns(inside)
        return inside

    def gaussian(self) -> JointGaussianModel:
        """This model with joint Gaussians as posteriors, for few points at a time (q up to about 200).

        It shares what was learned and solved, and has what entropy search (MES, GIBBON, JES), knowledge gradient,
        `qNegIntegratedPosteriorVariance`, `ScalarizedPosteriorTransform` and batches of fantasies ask for.
        """
        return JointGaussianModel(self)

    def fantasize(
        self, X: Tensor, sampler: MCSampler, observation_noise: Tensor | None = None, **kwargs: Any
    ) -> JointGaussianModel:
        """`gaussian()`, conditioned on outcomes that `sampler` draws from it at X; see BoTorch's `FantasizeMixin`."""
        return self.gaussian().fantasize(X, sampler, observation_noise, **kwargs)

    @undisturbed()
    def set_train_data(self, inputs: Any = None, targets: Tensor | None = None, strict: bool = True) -> None:
        """Replace the data and keep transforms and hyperparameters; the posterior is solved anew at the next use.

        Args:
            inputs: (n, d) in the units of `train_X`, or a tuple of one such tensor.
            targets: in the units of `train_targets`, (n,) or (m, n).
            strict: refuse another shape than the present one.
        """
        if isinstance(inputs, (tuple, list)):
            (inputs,) = inputs
        X = self._raw_X if inputs is None else inputs.to(self._raw_X)
        held = torch.stack([output.y for output in self.output_models])
        Y = held if targets is None else torch.atleast_2d(targets.to(held.device))
        old = (self._raw_X.shape, torch.Size([self.num_processes, len(self._raw_X)]))
        if X.ndim != 2 or Y.shape != (self.num_processes, len(X)) or (strict and (X.shape, Y.shape) != old):
            raise ShapeError(
                f"expected inputs {tuple(old[0])} and targets {tuple(old[1])}{'' if strict else ' with any n'}, "
                f"got {tuple(X.shape)} and {tuple(Y.shape)}."
            )
        known = any(output.known_noise is not None for output in self.output_models)
        if known and len(X) != len(self._raw_X):
            raise ShapeError("the noise is known per row, so the number of rows is fixed: build a new model.")
        check_training_data(X, Y.T, None)
        inside = self._checked_inside(X)
        for output, y in zip(self.output_models, Y.double(), strict=True):
            output.x, output.y = inside.detach(), y.detach()
            output.invalidate()
        self._assemble(self.output_models, X)
        self._learned = False

    def custom_fit(self, mll: Any, **kwargs: Any) -> Any:
        """What `botorch.fit.fit_gpytorch_mll(mll)` calls: learn hyperparameters the sggp way. None stands for no `mll`.

        Does nothing when they were learned on the present data already. The arguments of BoTorch's optimisers are
        ignored.
        """
        if not self._learned:
            self._learn("auto")
        if mll is None:
            return None
        mll.likelihood = self.likelihood
        return mll.eval()

    @undisturbed()
    def _sibling(self, outputs: Sequence[OutputGP], raw_X: Tensor) -> PathwiseGPModel:
        """A model of the same transforms with other outputs or rows."""
        out = copy.copy(self)
        out.__dict__ = dict(self.__dict__)
        kept = {name: module for name, module in self._modules.items() if name != "outputs"}
        out._modules = copy.deepcopy(kept)
        out._assemble(outputs, raw_X)
        out._learned = self._learned
        return out
