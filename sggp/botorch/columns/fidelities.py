"""`PathwiseMultiFidelityGP`: columns that say how faithful an evaluation is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from botorch.models.kernels.downsampling import DownsamplingKernel
from botorch.models.kernels.exponential_decay import ExponentialDecayKernel
from botorch.utils.datasets import SupervisedDataset
from gpytorch.kernels import Kernel
from gpytorch.priors import GammaPrior
from torch import Tensor

from sggp.botorch.checks import check_training_data, per_output
from sggp.botorch.columns.kernels import column_number, column_numbers, copied_on_columns, default_on_columns
from sggp.botorch.model import PathwiseGPModel
from sggp.errors import InputError
from sggp.kernels.features import FeatureMap, draw_features
from sggp.kernels.features.decay import PowerMap, decay_map
from sggp.posterior.kernel_values import name_kernel


class PathwiseMultiFidelityGP(PathwiseGPModel):
    """A `PathwiseGPModel` with columns of fidelities, as `SingleTaskMultiFidelityGP(linear_truncated=False)` has it.

    The kernel is the product of one of the other columns and, with x the fidelity of one row and z that of the other
    (1 is the truth), of c + (1 − x)^{1+δ} (1 − z)^{1+δ} for each data fidelity, such as the share of the data that an
    evaluation uses, and of w + (1 + (x + z)/β)^{−α} for an iteration fidelity, such as a number of steps in units of
    the largest. For fidelities that are kinds of evaluation, such as two simulators, see `PathwiseMultiTaskGP`.

    Args:
        train_X: inputs (n, d), the columns of fidelities included, these from 0 to 1. train_Y: outcomes (n, m).
        train_Yvar: known noise variances (n, m), or None.
        iteration_fidelity: a column, or None. data_fidelities: columns, or None. At least one is needed.
        covar_module: kernel of the other columns, or m of them; None is a scaled Matérn kernel with one length scale
            per column.
        **options: all other arguments of `PathwiseGPModel`.

    Raises:
        ShapeError, DtypeError, InputError: what was given cannot be used; the message says why.

    Cost: as `PathwiseGPModel`, with twice as many features for each data fidelity.

    Source: Wu, Toscano-Palmerin, Frazier & Wilson (2019), "Practical multi-fidelity Bayesian optimization for
    hyperparameter tuning".

    Example:
        >>> import torch
        >>> from sggp.botorch import PathwiseMultiFidelityGP
        >>> X = torch.rand(20, 2, dtype=torch.float64)
        >>> model = PathwiseMultiFidelityGP(X, X[:, :1] * X[:, 1:], data_fidelities=[1], generator=0)
        >>> model.posterior(X[:3]).rsample(torch.Size([4])).shape
        torch.Size([4, 3, 1])
    """

    def __init__(
        self,
        train_X: Tensor,
        train_Y: Tensor,
        train_Yvar: Tensor | None = None,
        iteration_fidelity: int | None = None,
        data_fidelities: Sequence[int] | None = None,
        covar_module: Kernel | Sequence[Kernel] | None = None,
        **options: Any,
    ) -> None:
        check_training_data(train_X, train_Y, train_Yvar)
        d = train_X.shape[-1]
        self._iteration = (
            [] if iteration_fidelity is None else [column_number(iteration_fidelity, d, "iteration_fidelity")]
        )
        none = data_fidelities is None or (isinstance(data_fidelities, Sequence) and not data_fidelities)
        self._data = [] if none else column_numbers(data_fidelities, d, "data_fidelities")
        if set(self._iteration) & set(self._data):
            raise InputError("iteration_fidelity is among data_fidelities: each column has one meaning.")
        if not 0 < len(self._iteration) + len(self._data) < d:
            raise InputError(
                f"train_X has {d} columns: name one or more as iteration_fidelity or data_fidelities, and leave others."
            )
        if options.pop("linear_truncated", False):
            raise InputError(
                "linear_truncated=True is BoTorch's LinearTruncatedFidelityKernel, which is no covariance for every "
                "power and has no features: leave it out for the kernels of this model."
            )
        super().__init__(train_X, train_Y, train_Yvar, covar_module, **options)

    @classmethod
    def construct_inputs(cls, training_data: SupervisedDataset, **options: Any) -> dict[str, Any]:
        """Arguments of the constructor; `fidelity_features` are `data_fidelities`, as BoTorch has it."""
        if "fidelity_features" in options:
            options["data_fidelities"] = options.pop("fidelity_features")
        return super().construct_inputs(training_data, **options)

    def check_columns(self, rows: Tensor) -> None:
        """Refuse fidelities that are not from 0 to 1; see `PathwiseGPModel`."""
        rows = rows.reshape(-1, rows.shape[-1])
        for name, columns in (("iteration_fidelity", self._iteration), ("data_fidelities", self._data)):
            for column in columns:
                bad = rows[:, column][~((rows[:, column] >= 0) & (rows[:, column] <= 1))]
                if len(bad):
                    raise InputError(
                        f"column {column} ({name}) must be from 0 to 1, which is the truth, got {float(bad[0])!r}: "
                        "scale it, as with Normalize(d, bounds=...) as input_transform."
                    )

    def _kernels(self, given: Any, x: Tensor, y: Tensor) -> list[Kernel | None]:
        self.check_columns(x)
        others = [j for j in range(x.shape[-1]) if j not in self._iteration + self._data]
        kernels: list[Kernel | None] = []
        for kernel, target in zip(
            per_output(given, y.shape[-1], "covar_module", Kernel), y.unbind(1), strict=True
        ):
            base = (
                default_on_columns(x, target, others) if kernel is None else copied_on_columns(kernel, others)
            )
            kernels.append(reduce(lambda product, factor: product * factor, self._fidelity_kernels(), base))
        return kernels

    def _fidelity_kernels(self) -> list[Kernel]:
        """With the priors of BoTorch's model."""

        def prior() -> GammaPrior:
            return GammaPrior(3.0, 6.0)

        decays = [
            ExponentialDecayKernel(
                lengthscale_prior=prior(), offset_prior=prior(), power_prior=prior(), active_dims=(column,)
            )
            for column in self._iteration
        ]
        powers = [
            DownsamplingKernel(offset_prior=prior(), power_prior=prior(), active_dims=(column,))
            for column in self._data
        ]
        return [*decays, *powers]


name_kernel(DownsamplingKernel)
name_kernel(ExponentialDecayKernel)


@draw_features.register(DownsamplingKernel)
def _powers(
    kernel: DownsamplingKernel, num_features: int, *, input_dim: int, generator: torch.Generator
) -> FeatureMap:
    """c + (1 − x)^{1+δ} (1 − z)^{1+δ}, exactly, with two features whatever `num_features`."""
    return PowerMap(float(kernel.offset.detach()), 1 + float(kernel.power.detach()))


@draw_features.register(ExponentialDecayKernel)
def _decays(
    kernel: ExponentialDecayKernel, num_features: int, *, input_dim: int, generator: torch.Generator
) -> FeatureMap:
    """w + (1 + (x + z)/β)^{−α} for x, z ≥ 0."""
    offset, lengthscale, power = (
        float(v.detach()) for v in (kernel.offset, kernel.lengthscale, kernel.power)
    )
    return decay_map(offset, lengthscale, power, num_features, generator=generator)
