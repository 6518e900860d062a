"""What a BoTorch model of several independent outputs exposes: data, likelihoods, modes, devices."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from botorch.models.model import Model
from botorch.models.transforms.input import InputTransform
from botorch.models.transforms.outcome import OutcomeTransform
from gpytorch.constraints import Positive
from gpytorch.kernels import Kernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood, GaussianLikelihood, Likelihood
from gpytorch.models import GP
from torch import Tensor

from sggp.botorch.checks import check_added_noise, check_points
from sggp.botorch.output import OutputGP, solve_together
from sggp.checks import whole_number
from sggp.errors import InputError, NoJointGaussian, ShapeError


class OutputsModel(Model, GP):
    """The part of `PathwiseGPModel` that holds its outputs.

    It is a GPyTorch `GP` as well, so that GPyTorch's marginal likelihoods accept it.
    """

    _supports_cache_root = False  # no Cholesky factor of the joint posterior exists
    input_transform: InputTransform
    outcome_transform: OutcomeTransform

    def _start(self) -> None:
        """What the constructor does before it knows any data."""
        super().__init__()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write data, transforms, hyperparameters, posteriors and paths to one safetensors file, with checksums.

        `load` gives back the same means, variances and samples; nothing in the file is run.

        Args:
            path: the file, which appears whole or not at all.

        Raises:
            InputError: a transform, kernel, constraint, prior or option of a type that a file does not name, with which
                one. DataFileError: the file cannot be written.

        Warns:
            NotSaved: a solver of a class of your own.

        Cost: 8·n·(d + 3 + 2·num_samples) bytes for each of the m outputs, and 8·p·num_samples for p features.
        """
        from sggp.botorch.storage.models import (
            save_model,  # files are read and written by few who import models
        )

        save_model(path, self)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The model that `save` wrote, of this class or one of its siblings.

        Raises:
            DataFileError: the file is missing, damaged, of another kind or class, or of a newer format.
        """
        from sggp.botorch.storage.models import load_model

        return load_model(path, cls)

    def _assemble(self, outputs: Sequence[OutputGP], raw_X: Tensor) -> None:
        self.outputs = torch.nn.ModuleList(outputs)
        self._raw_X = raw_X.detach()
        self._next_path = 0
        self._learned = False
        self._cast_to: torch.dtype | None = None
        self._original_train_inputs = self._raw_X if hasattr(self, "input_transform") else None

    @property
    def output_models(self) -> list[OutputGP]:
        """The m outputs, each with its data, hyperparameters, posterior and paths."""
        return [output for output in self.outputs if isinstance(output, OutputGP)]

    @property
    def num_outputs(self) -> int:
        """Number m of outputs."""
        return len(self.outputs)

    @property
    def num_processes(self) -> int:
        """Number of independent processes: m, but for outputs that are tasks of one process."""
        return len(self.outputs)

    @property
    def batch_shape(self) -> torch.Size:
        """Empty: the model itself is not batched."""
        return torch.Size([])

    @property
    def train_inputs(self) -> tuple[Tensor]:
        """The inputs (n, d): transformed in eval mode, as given in train mode, as BoTorch's models have it."""
        inputs = self.output_models[0].x if self._has_transformed_inputs else self._raw_X
        return (inputs.to(self._raw_X),)

    @property
    def train_targets(self) -> Tensor:
        """The outcomes after the outcome transform: (n,) for one output, (m, n) for several."""
        targets = [output.y.to(self._raw_X) for output in self.output_models]
        return targets[0] if len(targets) == 1 else torch.stack(targets)

    @property
    def likelihood(self) -> Likelihood:
        """GPyTorch likelihood holding the noise, in the units after the outcome transform; for m > 1 a batch of m, as
        BoTorch's models have it.
        """
        each = [output.likelihood for output in self.output_models]
        if len(each) == 1:
            return each[0]
        if isinstance(each[0], FixedNoiseGaussianLikelihood):
            return FixedNoiseGaussianLikelihood(noise=torch.stack([one.noise for one in each]))
        joint = GaussianLikelihood(noise_constraint=Positive(), batch_shape=torch.Size([len(each)]))
        joint.to(each[0].noise).noise = torch.stack([one.noise for one in each])
        return joint

    @property
    def models(self) -> list[OutputsModel]:
        """The m models of one output each, for GPyTorch's `SumMarginalLogLikelihood`."""
        return [self.subset_output([j]) for j in range(self.num_outputs)]

    @property
    def covar_module(self) -> Kernel | torch.nn.ModuleList:
        """The kernel, or a list of m kernels."""
        each = [output.covar_module for output in self.output_models]
        return each[0] if len(each) == 1 else torch.nn.ModuleList(each)

    @property
    def posteriors(self) -> tuple[Any, ...]:
        """The m solved `sggp.posterior.Posterior`s, in transformed units; their `solution` says how the solves went."""
        return tuple(output.posterior for output in self.output_models)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """GPyTorch's call of a model, which gives a joint Gaussian: refused.

        Raises:
            NoJointGaussian: always, naming what to use.
        """
        raise NoJointGaussian(
            f"{type(self).__name__} is not called: use model.posterior(X), or model.gaussian()(X) for a multivariate "
            "normal distribution. An acquisition function that calls its model needs model.gaussian() in its place."
        )

    def solve(self) -> None:
        """Solve for every output that is not solved for; those that share kernel and noise share one solve."""
        left = [output for output in self.output_models if not output.solved]
        while left:
            group = [output for output in left if left[0].same_system(output)]
            solve_together(group)
            left = [output for output in left if not output.solved]

    def claim_paths(self, count: int) -> int:
        """Number of the first of `count` paths that no earlier call was given."""
        first = self._next_path
        self._next_path += count
        return first

    @property
    def input_dim(self) -> int:
        """Number d of inputs, before the input transform."""
        return self._raw_X.shape[-1]

    def completed(self, X: Tensor) -> Tensor:
        """`X` with the columns that the model fills in itself: none, but see `PathwiseMultiTaskGP`."""
        return X

    def inside(self, X: Tensor) -> Tensor:
        """`X` after the input transform. Without one it stays as it is: rows are converted block by block."""
        if hasattr(self, "input_transform"):
            return self.transform_inputs(X.to(self._raw_X).double())
        return X.to(self._raw_X.device)

    def answers_in(self, X: Tensor, default: torch.dtype) -> torch.dtype:
        """Type of the answers at X: its own after the model was cast to it with `.to`, else the default one."""
        return X.dtype if X.dtype == self._cast_to else default

    def output_numbers(self, indices: Sequence[int] | None) -> list[int]:
        """The outputs asked for, counted from 0; None means all.

        Raises:
            InputError: there are no such outputs.
        """
        m = self.num_outputs
        if indices is None:
            return list(range(m))
        numbers = [whole_number(i, "an output number", least=None) for i in indices]
        if not numbers or any(not -m <= i < m for i in numbers):
            raise InputError(f"output numbers must lie in [{-m}, {m}), at least one, got {numbers}.")
        return [i % m for i in numbers]

    def mean_noise(self, chosen: Sequence[int]) -> Tensor:
        """Noise variance of each chosen output, the mean one where it is known per row; in working units, (m,)."""
        return torch.stack([self.output_models[j].noise_variance.mean() for j in chosen])

    def noise_to_add(self, given: Any, chosen: list[int], batch: Sequence[int]) -> Tensor | None:
        """The `observation_noise` of a posterior as variances, broadcastable to (*b, q, m); None for none.

        Args:
            given: as the user has it. chosen: the outputs. batch: (*b, q).
        """
        if isinstance(given, (bool, np.bool_)):
            return self.mean_noise(chosen) if given else None
        check_added_noise(given, batch, {len(chosen), self.num_outputs})
        given = given.to(self._raw_X.device, torch.float64)
        whole = given.ndim and given.shape[-1] == self.num_outputs
        return given[..., chosen] if whole else given

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As `torch.nn.Module.load_state_dict`; the posterior is solved anew at the next use."""
        keys = super().load_state_dict(*args, **kwargs)
        for output in self.output_models:
            if hasattr(self, "input_transform"):
                with torch.no_grad():
                    output.x = self.input_transform.preprocess_transform(self._raw_X.double())
            output.invalidate()
        return keys

    def candidates(self, X: Tensor) -> Tensor:
        """`X` (*b, q, d), checked, after the input transform; one that makes several rows of each may add columns.

        Raises:
            ShapeError, DtypeError: it is no such tensor.
        """
        transform = getattr(self, "input_transform", None)
        if transform is None or not transform.is_one_to_many:
            check_points(X, self.input_dim)
            rows = self.inside(X)
            self.check_columns(rows)
            return rows
        check_points(X, None)
        rows, d = self.inside(X), self.output_models[0].x.shape[-1]
        if rows.shape[-1] != d:
            raise ShapeError(
                f"X has shape {tuple(X.shape)}, of which {type(transform).__name__} makes {rows.shape[-1]} columns; "
                f"the model was given {d}: leave out of X the columns that the transform appends."
            )
        self.check_columns(rows)
        return rows

    def check_columns(self, rows: Tensor) -> None:
        """Refuse rows (..., d), after the input transform, with numbers that have no meaning in their column: none.

        Raises:
            InputError: in models whose columns have a meaning.
        """

    def _set_transformed_inputs(self) -> None:
        self._has_transformed_inputs = hasattr(self, "input_transform")

    def _revert_to_original_inputs(self) -> None:
        self._has_transformed_inputs = False

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> OutputsModel:
        """Move between devices, but compute in the dtype that was: some acquisition functions cast their model to that
        of every X, and their buffers with it. Points of that dtype are answered in it.
        """

        def keep_dtype(tensor: Tensor) -> Tensor:
            out = fn(tensor)
            return out if out.dtype == tensor.dtype else tensor.to(out.device)

        try:
            self._cast_to = fn(self._raw_X[:0]).dtype
        except (AssertionError, RuntimeError) as error:  # torch without CUDA fails an assertion
            raise InputError(
                f"the model cannot be moved there: {error}. Leave it on {self._raw_X.device}."
            ) from error
        super()._apply(keep_dtype, recurse)
        self._raw_X = keep_dtype(self._raw_X)
        if self._original_train_inputs is not None:
            self._original_train_inputs = self._raw_X
        return self
