"""`PathwiseMixedGP`: columns that name categories beside columns of numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from botorch.utils.datasets import SupervisedDataset
from gpytorch.constraints import GreaterThan
from gpytorch.kernels import Kernel, ScaleKernel
from torch import Tensor

from sggp.botorch.checks import check_training_data
from sggp.botorch.columns.categorical_kernel import KnownCategoricalKernel
from sggp.botorch.columns.kernels import check_untouched, column_numbers, default_on_columns
from sggp.botorch.model import PathwiseGPModel
from sggp.errors import DtypeError, InputError

# with 2,048 features, variances of paths are a tenth to a quarter too large where the data say much
_NUM_FEATURES = 8192
KernelFactory = Callable[[torch.Size, int, list[int]], Kernel]


class PathwiseMixedGP(PathwiseGPModel):
    """A `PathwiseGPModel` of columns that name categories and columns of numbers, as `MixedSingleTaskGP` has it.

    Two categories of a column are equal or not, and nothing else. The kernel is that of `MixedSingleTaskGP`,

        k((x, c), (z, e)) = k_1(x, z) + h_1(c, e) + k_2(x, z) h_2(c, e),    h(c, e) = exp(−Σ_j [c_j ≠ e_j]/(d ℓ_j)),

    each term with a scale and length scales of its own; of categories alone, it is h. Categories that the data lack may
    be asked for: their functions are as alike to those of the others as these are among each other. The features of
    paths are exact over the categories of the data in h_1, and random signs in the product.

    Args:
        train_X: inputs (n, d), the columns of categories included, as numbers of any kind. train_Y: outcomes (n, m).
        cat_dims: the columns of categories, from -d to d - 1.
        train_Yvar: known noise variances (n, m), or None.
        cont_kernel_factory: makes k_1 and k_2 from `batch_shape`, `ard_num_dims` and `active_dims`, given by name; None
            is the Matérn kernel where learning with the default kernel starts.
        **options: all other arguments of `PathwiseGPModel`; `num_features` is 8,192 unless given, since signs are
            noisier than frequencies. A `covar_module` is used in the place of the kernel above.

    Raises:
        ShapeError, DtypeError, InputError: what was given cannot be used; the message says why.

    Cost: as `PathwiseGPModel`.

    Example:
        >>> import torch
        >>> from sggp.botorch import PathwiseMixedGP
        >>> X = torch.rand(20, 2, dtype=torch.float64)
        >>> X[:, 1] = torch.arange(20) % 3
        >>> model = PathwiseMixedGP(X, X[:, :1] * X[:, 1:], cat_dims=[1], generator=0)
        >>> model.posterior(X[:3]).rsample(torch.Size([4])).shape
        torch.Size([4, 3, 1])
    """

    def __init__(
        self,
        train_X: Tensor,
        train_Y: Tensor,
        cat_dims: Sequence[int],
        train_Yvar: Tensor | None = None,
        cont_kernel_factory: KernelFactory | None = None,
        **options: Any,
    ) -> None:
        check_training_data(train_X, train_Y, train_Yvar)
        self._cat_dims = column_numbers(cat_dims, train_X.shape[-1], "cat_dims")
        self._factory = cont_kernel_factory
        super().__init__(train_X, train_Y, train_Yvar, **{"num_features": _NUM_FEATURES, **options})
        del self._factory  # often a function that cannot be pickled

    @classmethod
    def construct_inputs(cls, training_data: SupervisedDataset, **options: Any) -> dict[str, Any]:
        """Arguments of the constructor; `categorical_features` are `cat_dims`, as for `MixedSingleTaskGP`.

        Raises:
            InputError: neither is given.
        """
        if "categorical_features" in options:
            options["cat_dims"] = options.pop("categorical_features")
        if "cat_dims" not in options:
            raise InputError(
                "no column names categories: pass categorical_features. Ax makes columns of 0 and 1 of choices unless "
                "the generator is Generators.BO_MIXED; with those, use PathwiseGPModel."
            )
        return super().construct_inputs(training_data, **options)

    def _check_transformed(self, given: Tensor, x: Tensor) -> None:
        check_untouched(given, x, self._cat_dims, "names categories")

    def _kernels(self, given: Any, x: Tensor, y: Tensor) -> list[Kernel | None]:
        if given is not None:
            return super()._kernels(given, x, y)
        return [self._kernel(x, column) for column in y.unbind(dim=1)]

    def _kernel(self, x: Tensor, y: Tensor) -> Kernel:
        cats, d = self._cat_dims, x.shape[-1]
        numbers = [j for j in range(d) if j not in cats]
        options: dict[str, Any] = {
            "ard_num_dims": len(cats),
            "active_dims": tuple(cats),
            "lengthscale_constraint": GreaterThan(1e-6),
        }
        alone = KnownCategoricalKernel([x[:, j].unique().tolist() for j in cats], **options)
        if not numbers:
            return ScaleKernel(alone)
        first, second = self._of_numbers(x, y, numbers), self._of_numbers(x, y, numbers)
        return ScaleKernel(first + ScaleKernel(alone)) + ScaleKernel(
            second * KnownCategoricalKernel(**options)
        )

    def _of_numbers(self, x: Tensor, y: Tensor, columns: list[int]) -> Kernel:
        if self._factory is None:
            return default_on_columns(x, y, columns).base_kernel
        kernel = self._factory(batch_shape=torch.Size(), ard_num_dims=len(columns), active_dims=columns)  # type: ignore[call-arg]
        if not isinstance(kernel, Kernel):
            raise DtypeError(
                f"cont_kernel_factory must return a gpytorch.kernels.Kernel, got {type(kernel).__name__}."
            )
        return kernel
