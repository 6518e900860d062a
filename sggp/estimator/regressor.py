"""`GPRegressor`: a Gaussian process as a scikit-learn estimator, for ten rows to hundreds of thousands."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sggp.checks import flag, one_of, whole_number
from sggp.defaults import NUM_FEATURES, NUM_SAMPLES
from sggp.errors import InputError
from sggp.estimator.densities import generator_of
from sggp.estimator.insight import Insight
from sggp.estimator.lifecycle import Lifecycle
from sggp.estimator.long_fit import LongFit, as_before_if_it_fails, described
from sggp.estimator.modes.precomputed import (
    is_precomputed,
    precomputed_settings,
    training_points,
)
from sggp.estimator.modes.prior import predict_prior, sample_prior
from sggp.estimator.parameters import KernelParameters
from sggp.estimator.progress import tell_learnt, tell_plan, tell_solved, watching
from sggp.estimator.tables import as_array, checked_training, in_blocks, training_tensor
from sggp.estimator.weights import fit_weighted, row_noise
from sggp.fitting import ModelSettings
from sggp.fitting.measured import condition_measured
from sggp.posterior import Posterior
from sggp.random import draw_seed, streams


class GPRegressor(Lifecycle, Insight, RegressorMixin, KernelParameters):
    """Gaussian process regression with learnt hyperparameters and an exact posterior, for any number of rows.

    `fit` learns kernel parameters, noise and a constant mean (`sggp.hyperparameters.learn_hyperparameters`), then
    solves (K + noise) A = B on all rows (`sggp.posterior.condition`).

    Args:
        kernel: None (a scaled Matérn kernel with one length scale per column; up to 1,500 rows 3/2 or 5/2, by rows left
            out, but below 200 rows 5/2, or 3/2 where its likelihood is higher by a nat; beyond, Matérn-1/2, 3/2, 5/2 or
            RBF, by rows that no fit saw), "rbf", "matern12", "matern32", "matern52", "tanimoto" (rows are fingerprints:
            counts or bits), a GPyTorch kernel, or a scikit-learn kernel (WhiteKernel terms become the noise; types
            without a GPyTorch equal are learnt by their own gradient), or "precomputed": X is a matrix of covariances,
            (n, n), in predictions (q, n), of which scale and noise are learnt. Kernel objects are copied, never
            changed; their values are where learning starts.
        noise_variance: known noise variance in squared units of y, a number or one per training row; None
            learns it, under a weak prior (none for scikit-learn kernels), above 1e-8 of the variance
            of y (1e-7 from 500 rows on, 1e-5 where rows repeat; 1e-10 beyond 3,000; more for "iterative").
        noise: "auto" lets the spread of measurements depend on the input, gives it Student-t tails, and sets a few
            outlying rows apart (None and names of kernels), each where rows left out say so: for one target whose
            noise is learnt, from 100 rows on. Of noise variances given per row it takes a·given + b, learnt, where rows
            left out say so. "constant": one normal noise. "given": `noise_variance` as it is. See docs/densities.md.
        optimizer: how hyperparameters are learnt. "auto": "exact" (the marginal likelihood itself) up to 1,500 rows,
            "nearest-neighbour" (a stochastic likelihood, at a cost per step that hardly grows with n) beyond.
            "iterative": the marginal likelihood of all rows by iterative solves, whose last ones are the posterior;
            "subset": the average over small neighbourhoods. None keeps all values as given (mean zero; then
            `noise_variance` or a WhiteKernel is needed).
        solver: a solver of `sggp.solvers`, or None to choose by size.
        num_samples: posterior functions drawn at fit; they give the standard deviations of large fits and
            `sample_y`. Their relative error is about 1/sqrt(2 num_samples): 9 % for 64.
        num_features: random features behind the prior functions.
        normalize_y: centre y and divide by its standard deviation, per target, before anything else. False keeps what
            is given and learnt in the units of y: kernels by name still start at its variance, and so do output scales
            without bounds and priors; those with bounds or priors, and everything with optimizer=None, count as given.
        missing: "refuse", or "median" to fill missing cells of X in: numbers with the median of the training rows and a
            0/1 column that tells where, categories with a level of their own.
        device: torch device to compute on; None is the CPU.
        max_seconds: wall time of a fit. Hyperparameters and noise have half of it at most (the noise model what kernels
            leave, a fifth of that at least), the solve all that is left, and a tenth at least. Each ends with the best
            it has, a warning (`NotConverged`) and `cut_short_` say what was, and `converged_` is false. Looked at
            between steps: see docs/long_runs.md. None sets no limit.
        random_state: seed, numpy RandomState or None. Up to 3,000 rows predictions do not depend on it, but for what
            noise="auto" learns from 100 rows on: it draws the rows that it sets aside.
        verbose: 1 tells phases, residuals and the time left on standard error, see docs/long_runs.md.

    Inputs are standardised (column mean and spread of the training rows; median and quantiles where outliers swamp
    them) when the kernel is None or a name other than "tanimoto"; kernel objects see the columns as they are. Whatever
    the types of X and y, learning and solves work in float64 up to 3,000 rows, solves in float32 with float64
    refinement beyond; predictions are float64. A table whose y is multiplied by c gets the same model in its units.

    Attributes:
        kernel_: the learnt GPyTorch kernel, for standardised inputs and normalised y (y itself with normalize_y=False).
        noise_variance_: the noise variance learnt for all rows, before `noise_model_`, in squared units of y: a float,
            an (t,) array for several targets; or what was given, for variances per row as adjusted. 0 or infinity where
            float64 does not hold the square of such units; `predict` is right.
        noise_adjustment_: (a, b) of the noise a·given + b, b in squared units of y; (1, 0) where it is as given.
        noise_model_: the `sggp.evidence.spread.NoiseModel`: what was taken, its scores on rows set aside, the reason.
        kernel_selection_: the `sggp.evidence.judging.KernelSelection` where kernels were compared, else None.
        outliers_: positions of training rows that were set apart, which have no say in the solve.
        posterior_: `sggp.posterior.Posterior` (a list of them for several targets) of what `scaling_` makes of X and y.
        solution_: the solver's `Solution` (a list for several targets). n_iter_: its iterations, at least 1.
        converged_: whether every column was solved to its tolerance, and `max_seconds` cut nothing short. cut_short_:
            what of the learning it did, by name.
        log_marginal_likelihood_value_: of the normalised targets (y itself with normalize_y=False); an estimate for the
            nearest-neighbour likelihood.
        hyperparameters_: learnt values by GPyTorch name, in the units of kernel_; `unidentified`, the input columns the
            data say nothing separate about, with the reason; `without_influence`, those whose learnt length scales make
            no difference, which count as constant. trace_: one dict per recorded step.
        fit_result_: the whole FitResult.
        X_train_, y_train_: the data, as numbers; read-only where the posterior has the same memory.
        columns_: the `sggp.estimator.columns.TableEncoder` that made them from tables with categories, truth values or
            cells to be filled in, whose `names` then stand above for columns; None for tables of numbers.
        x_offset_, x_scale_ (infinite for columns without influence), y_offset_, y_scale_: the normalisation.
        n_features_in_, feature_names_in_: as in scikit-learn.
        feature_importance_: of the columns, by permutation of left-out rows and by the learnt kernel;
            feature_importances_: the first as shares, for `RFE` and its like.

    Example:
        >>> import numpy as np
        >>> from sggp import GPRegressor
        >>> X = np.linspace(0, 1, 30)[:, None]
        >>> model = GPRegressor(random_state=0).fit(X, np.sin(6 * X[:, 0]))
        >>> mean, std = model.predict(X, return_std=True)
        >>> bool(model.score(X, np.sin(6 * X[:, 0])) > 0.999)
        True
    """

    def __init__(
        self,
        kernel: Any = None,
        *,
        noise_variance: Any = None,
        noise: str = "auto",
        optimizer: str | None = "auto",
        solver: Any = None,
        num_samples: int = NUM_SAMPLES,
        num_features: int = NUM_FEATURES,
        normalize_y: bool = True,
        missing: str = "refuse",
        device: Any = None,
        max_seconds: float | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.kernel = kernel
        self.noise_variance = noise_variance
        self.noise = noise
        self.optimizer = optimizer
        self.solver = solver
        self.num_samples = num_samples
        self.num_features = num_features
        self.normalize_y = normalize_y
        self.missing = missing
        self.device = device
        self.max_seconds = max_seconds
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False  # the prior predicts, as scikit-learn's own regressor has it
        tags.target_tags.multi_output = True
        tags.input_tags.sparse = True
        tags.input_tags.pairwise = is_precomputed(self.kernel)
        tags.input_tags.allow_nan = self.missing != "refuse"
        return tags

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, noise_variance: Any = None, checkpoint: Any = None
    ) -> GPRegressor:
        """Learn the hyperparameters and condition on all rows.

        Args:
            X: (n, d) numbers; or a table with columns of text, categories and truth values, see docs/kernels.md; or a
                sparse matrix, which is made dense: bytes for a Tanimoto kernel, up to 4 GiB.
            y: (n,) targets, or (n, t): independent targets that share kernel and noise-to-signal ratio. Of several
                targets cells may be NaN: each is conditioned on the rows where it was measured, and the
                hyperparameters are learnt from complete rows, or from the fullest target if these are fewer than half.
            sample_weight: (n,) w: row i has noise of variance σ²/wᵢ, σ² being `noise_variance`, or learnt (one normal
                noise then); weight 0 leaves a row out. Not how often a row was seen.
            noise_variance: as in the constructor, which it replaces for this fit: cross-validation splits it.
            checkpoint: a file to keep the fit in: what was learnt, once it is, and beside it, in the file of that name
                with ".solve" at its end, the solve while it runs. The same call after a kill learns nothing again and
                ends with the same numbers; `max_seconds` counts what the killed one took. The files stay.

        Returns:
            self. A fit that fails or is interrupted leaves an earlier one as it was.

        Raises:
            ValueError: missing cells (with their rows), infinity, wrong shapes, mismatched lengths (scikit-learn's
                messages), unknown settings, a column of text with as many values as ids have.

            CheckpointError: the checkpoint is of other data or arguments, damaged, or cannot be written.
            Stopped: in `sggp.running.stop_on_signals`, before there was a posterior.

        Warns:
            NotConverged: the solver stopped before its tolerance, or learning before its end. UnidentifiedColumns:
                columns that are constant, or copies of others.
        """
        with as_before_if_it_fails(self):
            long = LongFit(self.max_seconds, checkpoint)
            given = self.noise_variance if noise_variance is None else noise_variance
            settings = self._settings(given)
            X, y, self.columns_ = checked_training(self, as_array(X), as_array(y))
            settings = replace(settings, blocks=self.columns_.blocks if self.columns_ else ())
            if is_precomputed(self.kernel):
                X = training_points(X)
                settings = precomputed_settings(settings, X)
            noise = row_noise(len(X), given, sample_weight)
            if noise.rows is not None:
                X, y = X[noise.rows], y[noise.rows]
            self.X_train_, self.y_train_ = np.copy(X), np.copy(y)
            x = training_tensor(self.X_train_).to(self.device)
            targets = torch.from_numpy(y.reshape(len(y), -1).astype(float)).to(self.device)
            fit_stream, sample_stream = streams(generator_of(self.random_state), "hyperparameters", "samples")
            with watching(self.verbose):
                tell_plan(len(X), X.shape[1], settings)
                seed = draw_seed(fit_stream)
                learning = partial(fit_weighted, x, targets, settings, noise, seed)
                of = described(settings, X, y, noise, self.random_state) if checkpoint is not None else {}
                model, self._known_noise = long.learn(learning, settings, of, sample_stream)
                self._record(model)
                tell_learnt(model)
                posteriors = condition_measured(
                    model, x, targets, sample_stream, long.limits_of(targets.shape[1])
                )
                tell_solved(posteriors)
            self.cut_short_ = long.cut
            long.tell_cut()
            solutions, single = [posterior.solution for posterior in posteriors], len(posteriors) == 1
            self.posterior_: Any = posteriors[0] if single else posteriors
            self.solution_ = solutions[0] if single else solutions
            self.n_iter_ = max(1, *(int(solution.iterations) for solution in solutions))
        return self

    def predict(
        self,
        X: Any,
        return_std: bool = False,
        return_cov: bool = False,
        include_noise: bool = False,
        diagonal: Any = None,
    ) -> Any:
        """Posterior mean, and on request the standard deviation or covariance of the latent function.

        Before a fit, of the prior: mean 0 and the covariance of the kernel as given, for tables of numbers. The default
        kernel and those by name then have unit scale and length scales, as scikit-learn's default has.

        Args:
            X: (q, d). return_std: also the (q,) or (q, t) standard deviation: exact up to 3,000 training
                rows, from `num_samples` posterior functions beyond. return_cov: also the (q, q) or (q, q,
                t) covariance, exact.
            include_noise: add the noise variance, for the spread of new measurements.
            diagonal: (q,) k(x, x) of the rows, for `return_std` with kernel="precomputed" only.

        Returns:
            mean (q,) or (q, t); or a tuple (mean, std) or (mean, cov), in units of y. The mean alone never
            computes a variance.

        Raises:
            InputError: both return_std and return_cov; include_noise with one noise variance per training
                row; return_cov where float64 does not hold the square of the units of y; a level of a category that
                was not in training.
            MemoryBudgetError: return_cov of so many rows that the matrix would not fit 1 GiB.
        """
        if return_std and return_cov:
            raise InputError("return_std and return_cov were both asked for; ask for one at a time.")
        if not hasattr(self, "posterior_"):
            return predict_prior(self, X, return_std, return_cov, include_noise)
        wanted = "return_cov" if return_cov else "return_std" if return_std else None
        rows = self._checked(X, diagonal, wanted)
        if return_cov:
            self._check_covariance_size(len(rows))
            self._check_covariance_range()
            return self._predicted(rows, return_std, True, include_noise)
        return in_blocks(lambda part, _: self._predicted(part, return_std, False, include_noise), rows)

    def _predicted(self, rows: np.ndarray, return_std: bool, return_cov: bool, include_noise: bool) -> Any:
        x = self._inputs(rows)
        offset, scale = self.scaling_.y_offset, self.scaling_.y_scale
        if not (return_std or return_cov):
            means = torch.stack([p.mean(x) for p in self._posteriors()], dim=1)
            return self._squeeze(means.detach().cpu().double().numpy() * scale + offset)
        noise = self._measurement_noise() if include_noise else np.zeros(len(self._posteriors()))
        means, variances = (torch.stack(part, dim=1) for part in zip(*self._moments(x), strict=True))
        factor = self._variance_factor(x, means, variances)  # (q, t)
        mean, own = self._squeeze(means.cpu().numpy() * scale + offset), variances.cpu().numpy()
        stretch = self._latent_factor(factor, own)
        spread = (own + noise) * factor if include_noise else own * stretch
        if return_std:
            return mean, self._squeeze(np.sqrt(spread + self._solve_error()) * scale)
        blocks = [p.covariance_matrix(x).cpu().numpy() for p in self._posteriors()]
        root = np.sqrt(stretch) * scale
        cov = np.stack(blocks, axis=-1) * root[:, None] * root[None]
        further = np.maximum(spread - own * stretch, 0.0) * scale * scale  # of the measurement
        return mean, self._squeeze(cov + np.eye(len(x))[:, :, None] * further)

    def sample_y(self, X: Any, n_samples: int = 1, random_state: Any = 0) -> np.ndarray:
        """Values of posterior functions at X: the same functions in every call with the same seed and n_samples.

        Before a fit, of prior functions: exact up to 1,000 rows, by `num_features` random features beyond.

        Args:
            X: (q, d). n_samples: up to `num_samples` functions were made at fit and the seed picks among
                them; for more, that many new ones are solved for, as at fit.
            random_state: seed, RandomState or None.

        Returns:
            (q, n_samples), or (q, t, n_samples) for several targets; without measurement noise.
        """
        if not hasattr(self, "posterior_"):
            return sample_prior(self, X, n_samples, random_state)
        whole_number(n_samples, "n_samples")
        x = self._inputs(self._checked(X, wanted="sample_y"))
        generator = generator_of(random_state)
        posteriors = self._posteriors()
        if n_samples > posteriors[0].num_samples:
            paths = [p.more_samples(n_samples, generator)(x) for p in posteriors]
        else:
            chosen = torch.randperm(posteriors[0].num_samples, generator=generator)[:n_samples]
            paths = [p.samples.select(chosen)(x) for p in posteriors]
        values = (
            torch.stack([path.T for path in paths], dim=1).detach().cpu().numpy().astype(float)
        )  # (q, t, s)
        if self.noise_model_.changes:
            means, variances = (torch.stack(part, dim=1) for part in zip(*self._moments(x), strict=True))
            factor, centre = self._variance_factor(x, means, variances), means.cpu().numpy()
            root = np.sqrt(self._latent_factor(factor, variances.cpu().numpy()))
            values = centre[:, :, None] + root[:, :, None] * (values - centre[:, :, None])
        values = values * self.scaling_.y_scale[:, None] + self.scaling_.y_offset[:, None]
        return values[:, 0] if values.shape[1] == 1 else values

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R² of `predict(X)`, as scikit-learn has it; a fit is needed."""
        check_is_fitted(self, "posterior_")
        return super().score(X, y, sample_weight)

    # fitting

    def _settings(self, given: Any) -> ModelSettings:
        """The settings, checked here as scikit-learn has it: by `fit`."""
        whole_number(int(self.verbose) if self.verbose in (True, False) else self.verbose, "verbose", least=0)
        if self.noise == "given" and given is None:
            raise InputError(
                "noise='given' takes noise_variance as it is, and none was given: pass one, or 'auto'."
            )
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, TypeError, AssertionError) as error:
            raise InputError(
                f"device must be a torch device that is here, got {self.device!r}: {error}"
            ) from error
        return ModelSettings(
            kernel=self.kernel,
            noise_variance=given,
            optimizer=self.optimizer,
            solver=self.solver,
            num_samples=whole_number(self.num_samples, "num_samples", least=0),
            num_features=whole_number(self.num_features, "num_features"),
            normalise=flag(self.normalize_y, "normalize_y"),
            noise=one_of(self.noise, "noise", ("auto", "constant", "given")),
        )

    def _tensor(self, X: np.ndarray) -> Tensor:  # (q, d)
        """Rows in float64; uint8 fingerprints untouched, of which no copy in float64 might fit."""
        return torch.from_numpy(np.array(X, dtype=None if X.dtype == np.uint8 else float)).to(self.device)

    def _inputs(self, X: np.ndarray) -> Tensor:  # (q, d)
        return self.scaling_.inputs(self._tensor(X))

    # predicting

    def _posteriors(self) -> list[Posterior]:
        return self.posterior_ if isinstance(self.posterior_, list) else [self.posterior_]

    def _squeeze(self, values: np.ndarray) -> np.ndarray:
        return values[..., 0] if values.shape[-1] == 1 else values

    def _measurement_noise(self) -> np.ndarray:  # (t,)
        """The noise variance of a measurement, in the squared units of the posterior."""
        scale = self.scaling_.y_scale
        if self.__dict__.get("_known_noise") is None:
            return np.full(scale.shape, self._base_noise())
        noise = np.asarray(self.noise_variance_, dtype=float)
        if noise.ndim:
            raise InputError(
                "the model was given one noise variance per training row, and that of other rows is not known: "
                "pass noise_variance to predict_dist or partial_fit, or ask for the latent function alone."
            )
        return noise / scale / scale
