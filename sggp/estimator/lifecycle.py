"""What becomes of a fitted regressor: files, further rows, and other hyperparameters."""

from __future__ import annotations

import os
import warnings
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sggp.arrays import tensor_of
from sggp.autograd import with_gradients
from sggp.defaults import DIRECT_ROWS
from sggp.errors import InputError, ShapeError, UnidentifiedColumns
from sggp.estimator.columns import as_numbers
from sggp.estimator.densities import PredictiveDensities, generator_of
from sggp.estimator.modes.precomputed import is_precomputed, query_points
from sggp.estimator.storage import load_estimator, save_estimator
from sggp.estimator.tables import as_array, checked_rows, joined, listed_columns, told_columns
from sggp.estimator.weights import row_noise
from sggp.fitting import FittedModel
from sggp.fitting.scaling import Scaling
from sggp.fitting.scikit_bridge import warn_unlearnt
from sggp.hyperparameters.coordinates import copy_kernel, public_name
from sggp.hyperparameters.gram import LOG_TWO_PI, gram_function
from sggp.random import streams


def _can_grow(model: Any) -> bool:
    """Whether rows can be added, which is asked before `partial_fit` is looked up."""
    if is_precomputed(model.kernel):
        raise AttributeError("further rows bring columns with them: fit the larger matrix")
    return True


class Lifecycle(PredictiveDensities):
    """The methods of `GPRegressor` that keep a fit, add rows to it, and judge other hyperparameters."""

    X_train_: np.ndarray
    posterior_: Any
    log_marginal_likelihood_value_: float
    cut_short_: tuple[str, ...] = ()
    kernel_: Any
    fit_result_: Any
    random_state: Any
    kernel: Any
    _known_noise: Any
    # of the estimator
    fit: Any
    _tensor: Any

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator to one safetensors file of tensors and plain values, each with its checksum.

        `load` gives back predictions, densities, samples, the training table and what was learnt, to the last bit.

        Args:
            path: the file, which appears whole or not at all.

        Raises:
            NotFittedError: not fitted. InputError: a kernel, constraint or prior of a type of your own, by name
                (joblib.dump keeps those). DataFileError: the file cannot be written.

        Warns:
            NotSaved: arguments of the constructor that no such file holds, by name: scikit-learn kernels, solvers of
                your own, a RandomState.

        Cost: 8·n·(d + 2 + 2·num_samples) bytes for floating inputs, t times but for the inputs, those once more as they
            were given; and 8·p·num_samples for the p features of the prior functions, whatever n is.
        """
        check_is_fitted(self, "posterior_")
        save_estimator(path, self)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The estimator that `save` wrote, this version or an older one; nothing in the file is run.

        The model of `sggp fit --out` is such a file, too.

        Raises:
            DataFileError: the file is missing, damaged, another, or of a newer format.
        """
        loaded = cls()
        load_estimator(path, loaded)
        return loaded

    @available_if(_can_grow)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, noise_variance: Any = None) -> Self:
        """Condition on further rows with the hyperparameters as they are; the first call is a `fit`.

        Solves start from the present solution, and the samples stay the same functions, now through the further rows.
        Scaling, kernel, noise and noise model are those of the first rows: fit all rows again once they have changed
        what is to be learnt. Not with kernel="precomputed".

        Args:
            X: (m, d), y: (m,) or (m, t), as of `fit`. sample_weight, noise_variance: of these rows, as of `fit`; None
                gives them the noise of a new measurement.

        Returns:
            self.

        Raises:
            InputError: NaN in y; a noise that was given per training row, and none for these.

        Cost: that of solves from a close start; up to 3,000 rows in all, a factorisation.
        """
        if not hasattr(self, "posterior_"):
            return self.fit(X, y, sample_weight=sample_weight, noise_variance=noise_variance)
        rows, values = self._checked(X), np.asarray(as_numbers(as_array(y)), dtype=float)
        posteriors = self._posteriors()
        if values.shape not in ((len(rows),), (len(rows), len(posteriors))) or (values.ndim == 1) > (
            len(posteriors) == 1
        ):
            raise ShapeError(
                f"y must have {len(rows)} rows and {len(posteriors)} targets as in fit, got shape {values.shape}."
            )
        if not np.isfinite(values).all():
            raise InputError(
                "y contains NaN or infinity: partial_fit takes rows in which every target was measured."
            )
        noise = row_noise(len(rows), noise_variance, sample_weight)
        if noise.rows is not None:
            rows, values = rows[noise.rows], values[noise.rows]
        x = self._inputs(rows)
        variances = self._noise_of_further(x, noise)
        targets = self.scaling_.targets(tensor_of(values.reshape(len(rows), -1)).to(x.device))
        generators = streams(
            generator_of(self.random_state), *(f"further {j}" for j in range(len(posteriors)))
        )
        updated = [
            p.update(x, target, noise_variance=variance, generator=generator)
            for p, target, variance, generator in zip(
                posteriors, targets.unbind(dim=1), variances.unbind(dim=1), generators, strict=True
            )
        ]
        self.posterior_ = updated if isinstance(self.posterior_, list) else updated[0]
        self.solution_ = (
            [p.solution for p in updated] if isinstance(self.posterior_, list) else updated[0].solution
        )
        self.X_train_ = joined(self.X_train_, rows)
        self.y_train_ = joined(self.y_train_, values.reshape(len(rows), *self.y_train_.shape[1:]))
        return self

    def _checked(self, X: Any, diagonal: Any = None, wanted: str | None = None) -> np.ndarray:  # (q, d)
        """Rows as numbers, for the mean and what else is wanted of them."""
        rows = checked_rows(self, as_array(X))
        if is_precomputed(self.kernel):
            return query_points(rows, diagonal, wanted)
        if diagonal is not None:
            raise InputError("diagonal= goes with kernel='precomputed': other kernels know k(x, x).")
        return rows

    def _tell_scaling(self, scaling: Scaling) -> None:
        """The normalisation as fitted attributes."""
        self.scaling_, self.standardise_ = scaling, scaling.standardised
        self.x_offset_, self.x_scale_ = scaling.x_offset, scaling.x_scale
        self.y_offset_, self.y_scale_ = scaling.y_offset, scaling.y_scale
        if not scaling.normalised:
            self.y_offset_, self.y_scale_ = np.zeros_like(scaling.y_offset), np.ones_like(scaling.y_scale)

    def _record(self, model: FittedModel) -> None:
        """Fitted attributes that do not depend on the solve."""
        result, scaling = model.told(), model.scaling
        self._tell_scaling(scaling)
        self.fit_result_ = result
        self.noise_model_, self.kernel_selection_ = model.noise_model, model.selection
        apart = model.noise_model.apart
        self.outliers_ = np.zeros(0, dtype=int) if apart is None else np.sort(apart.cpu().numpy())
        self.kernel_ = result.kernel
        self.trace_ = result.trace
        self.log_marginal_likelihood_value_ = result.log_marginal_likelihood
        self.hyperparameters_ = {**result.hyperparameters, **told_columns(self, model)}
        a, b, unit = model.noise_model.factor, model.noise_model.added, float(self.scaling_.y_scale[0])
        b = b * unit * unit if b else 0.0
        self.noise_adjustment_ = (a, b)
        if self._known_noise is not None:
            self.noise_variance_: Any = self._known_noise
            if self.noise_adjustment_ != (1.0, 0.0):
                self.noise_variance_ = a * np.asarray(self._known_noise, dtype=float) + b
        else:
            with np.errstate(over="ignore"):
                units = float(result.noise_variance) * self.y_scale_ * self.y_scale_
            self.noise_variance_ = float(units[0]) if len(units) == 1 else units
        if result.method != "fixed":
            warn_unlearnt(result.kernel)
        if result.unidentified and result.method not in ("fixed", "constant target"):
            listed = listed_columns(self, self.hyperparameters_["unidentified"])
            warnings.warn(
                f"the data say nothing separate about these input columns: {listed}. Constant ones get a typical "
                "length scale, copies share the influence of their column; drop them to be rid of this warning.",
                UnidentifiedColumns,
                stacklevel=3,
            )

    def _noise_of_further(self, x: Tensor, noise: Any) -> Tensor:  # -> (m, t), in units of the posterior
        if noise.variance is not None:
            given = self._new_noise(noise.of_rows, len(x))
            return torch.from_numpy(np.broadcast_to(given, (len(x), len(self._posteriors()))).copy())
        base = torch.from_numpy(np.array(self._measurement_noise()))
        variances = base.expand(len(x), len(base))
        if self.noise_model_.surface is not None:
            mean, latent = (torch.stack(part, dim=1).cpu() for part in zip(*self._moments(x), strict=True))
            total = (latent + base) * self._squared_scale(x, mean, latent).cpu()
            variances = torch.maximum(total - latent, 1e-3 * variances)
        return variances if noise.weights is None else variances / torch.from_numpy(noise.weights)[:, None]

    @property
    def converged_(self) -> bool:
        """Whether every column was solved to its tolerance, and `max_seconds` cut nothing of the learning short."""
        check_is_fitted(self, "posterior_")
        return not self.cut_short_ and all(p.solution.converged for p in self._posteriors())

    @property
    def theta_names_(self) -> list[str]:
        """What the entries of `theta_` are: hyperparameters by GPyTorch name, and the noise variance if learnt."""
        names = []
        for name, parameter, _ in self._free(self.kernel_):
            several = parameter.numel() > 1
            names += [
                f"{public_name(name)}[{i}]" if several else public_name(name)
                for i in range(parameter.numel())
            ]
        return names + ["noise_variance"] * self._has_one_noise()

    @property
    def theta_(self) -> np.ndarray:  # (p,)
        """Natural logarithms of the learnt hyperparameters, of `kernel_` and in its units; see `theta_names_`."""
        check_is_fitted(self, "posterior_")
        parts = [
            constraint.transform(p).detach().reshape(-1).log()
            for _, p, constraint in self._free(self.kernel_)
        ]
        if self._has_one_noise():
            parts.append(torch.tensor([np.log(float(self.fit_result_.noise_variance))], dtype=torch.float64))
        return torch.cat(parts).double().numpy() if parts else np.zeros(0)

    def log_marginal_likelihood(self, theta: Any = None, eval_gradient: bool = False) -> Any:
        """Log marginal likelihood of the training targets at other hyperparameters.

        Args:
            theta: (p,) as `theta_`; None gives `log_marginal_likelihood_value_`. The mean stays as learnt, and so does
                noise that was given: of several targets each has its own here, and the mean of them, in units of
                normalised targets, in learning and in `log_marginal_likelihood_value_`.
            eval_gradient: also the (p,) gradient in theta.

        Returns:
            A number, with the gradient beside it where that was asked for; of the targets that `kernel_` is for.

        Raises:
            ShapeError: theta of another length. InputError: more than 3,000 rows, missing cells in y, or a theta
                without a positive definite covariance.

        Cost: n³ flops; see `sggp.hyperparameters.log_marginal_likelihood` for more rows.
        """
        check_is_fitted(self, "posterior_")
        if theta is None and not eval_gradient:
            return self.log_marginal_likelihood_value_
        start = self.theta_
        point = torch.tensor(start if theta is None else np.asarray(theta, dtype=float), dtype=torch.float64)
        if point.shape != start.shape:
            raise ShapeError(
                f"theta must have {len(start)} entries ({', '.join(self.theta_names_)}), got {tuple(point.shape)}."
            )
        x, y = (
            self._inputs(self.X_train_),
            np.asarray(self.y_train_, dtype=float).reshape(len(self.X_train_), -1),
        )
        if len(x) > DIRECT_ROWS or np.isnan(y).any():
            raise InputError(
                f"log_marginal_likelihood(theta) is of up to {DIRECT_ROWS} rows without missing targets: use "
                "sggp.hyperparameters.log_marginal_likelihood on kernel_."
            )
        targets = tensor_of(y).to(x.device)
        value, gradient = self._likelihood_at(
            point, x, self.scaling_.targets(targets) if self.scaling_.normalised else targets
        )
        return (value, gradient) if eval_gradient else value

    @with_gradients()
    def _likelihood_at(self, theta: Tensor, x: Tensor, y: Tensor) -> tuple[float, np.ndarray]:
        kernel, place = copy_kernel(self.kernel_), 0
        raws = []
        for _, parameter, constraint in self._free(kernel):
            part = theta[place : place + parameter.numel()].clone().requires_grad_(True)
            place += parameter.numel()
            raw = constraint.inverse_transform(part.exp()).reshape(parameter.shape)
            parameter.data.copy_(raw.detach())
            raws.append((part, raw, parameter.requires_grad_(True)))
        last = theta[place:].clone().requires_grad_(True)
        gram = gram_function(kernel)(x.double())
        residual = y - torch.as_tensor(self.fit_result_.mean, dtype=torch.float64)
        each = [self._log_density(gram, noise, residual[:, columns]) for noise, columns in self._noises(last)]
        value = torch.stack(each).sum()
        inner = [p for *_, p in raws] + ([last] if self._has_one_noise() else [])
        slopes = torch.autograd.grad(value, inner, allow_unused=True) if inner else ()
        parts = []
        for (part, raw, parameter), slope in zip(raws, slopes, strict=False):
            pulled = torch.zeros_like(parameter) if slope is None else slope
            parts.append(torch.autograd.grad(raw, part, pulled)[0])
        parts += list(slopes[len(raws) :])
        return float(value.detach()), torch.cat(parts).detach().numpy() if parts else np.zeros(0)

    def _noises(self, log_noise: Tensor) -> list[tuple[Tensor, list[int]]]:
        """Noise (n,) of the rows, in the units of `kernel_`, that is given or learnt, with the targets that have it."""
        out: list[tuple[Tensor, list[int]]] = []
        for j, posterior in enumerate(self._posteriors()):
            told = posterior.data.noise_variance.double()
            unit = 1.0 if self.scaling_.normalised else float(self.scaling_.y_scale[j]) ** 2
            noise = told * unit
            if self._has_one_noise():  # further rows may have told their own
                noise = torch.where(told == told[0], log_noise.exp(), noise)
            same = next((columns for other, columns in out if torch.equal(other, noise)), None)
            if same is None:
                out.append((noise, [j]))
            else:
                same.append(j)
        return out

    @staticmethod
    def _log_density(gram: Tensor, noise: Tensor, residual: Tensor) -> Tensor:  # (n, n), (n,), (n, t) -> ()
        lower, wrong = torch.linalg.cholesky_ex(gram + torch.diag(noise))
        if bool(wrong) or not bool(torch.isfinite(lower.diagonal()).all()):
            raise InputError("the covariance is not positive definite at this theta: raise noise_variance.")
        white = torch.linalg.solve_triangular(lower, residual, upper=False)
        logs = lower.diagonal().log().sum() + 0.5 * len(gram) * LOG_TWO_PI
        return -0.5 * white.square().sum() - residual.shape[1] * logs

    def _has_one_noise(self) -> bool:
        return self._known_noise is None and self.noise_model_.row_noise is None

    @staticmethod
    def _free(kernel: Any) -> list[tuple[str, Any, Any]]:
        """Positive hyperparameters with their constraints, each once."""
        out, seen = [], set()
        for name, parameter, constraint in kernel.named_parameters_and_constraints():
            if constraint is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                out.append((name, parameter, constraint))
        return out
