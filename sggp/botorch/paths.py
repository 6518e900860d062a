"""Posterior paths as a BoTorch `SamplePath`, for `PathwiseThompsonSampling` and `get_matheron_path_model`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from botorch.models.deterministic import DeterministicModel
from botorch.models.model import ModelList
from botorch.sampling.pathwise.paths import PathList, SamplePath
from botorch.sampling.pathwise.posterior_samplers import DrawMatheronPaths, draw_matheron_paths
from botorch.sampling.pathwise.utils import get_input_transform, get_output_transform
from torch import Tensor

from sggp.botorch.model import PathwiseGPModel
from sggp.botorch.output import OutputGP
from sggp.errors import ShapeError


class PosteriorPaths(SamplePath):
    """Function draws from a `PathwiseGPModel`, with the shapes BoTorch's own Matheron paths have.

    For a model of one output, points (*b, q, d) are broadcast against `sample_shape` from the right and the values
    have shape (*broadcast(b, sample_shape), q): points (q, d) go to every path; points (*sample_shape, q, d) give each
    path its own. For m outputs, points are (*b, 1, q, d) and the values (*broadcast(b, sample_shape), m, q).
    """

    def __init__(
        self,
        outputs: Sequence[OutputGP],
        sample_shape: torch.Size,
        first: int,
        input_transform: Any = None,
        output_transform: Any = None,
        dtype: torch.dtype = torch.float64,
        check: Callable[[Tensor], None] | None = None,
    ) -> None:
        super().__init__()
        self._check = check
        self._dtype = dtype
        self._outputs = tuple(outputs)
        self.sample_shape = torch.Size(sample_shape)
        self._first = first
        self.input_transform = input_transform
        self.output_transform = output_transform

    def __call__(self, x: Tensor, **kwargs: Any) -> Tensor:
        """The values, after the transforms, in the type of the model's answers."""
        values: Tensor = super().__call__(x.to(self._dtype).double(), **kwargs)
        return values.to(self._dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Values of the paths at `x`; see the class for the shapes."""
        if self._check is not None:
            self._check(x)
        if len(self._outputs) == 1:
            return self._one_output(self._outputs[0], x)
        if x.ndim < 3 or x.shape[-3] != 1:
            raise ShapeError(
                f"points for {len(self._outputs)} outputs must have shape (..., 1, q, d), got {tuple(x.shape)}."
            )
        return torch.stack([self._one_output(output, x.squeeze(-3)) for output in self._outputs], dim=-2)

    def set_ensemble_as_batch(self, ensemble_as_batch: bool) -> None:
        """Nothing to do: the model is not an ensemble."""

    def _one_output(self, output: OutputGP, x: Tensor) -> Tensor:
        x = x.to(output.x)
        shape, count = self.sample_shape, self.sample_shape.numel()
        stop = self._first + count
        dims = len(shape)
        batch = torch.Size([1] * max(0, dims - (x.ndim - 2))) + x.shape[:-2]
        lead, tail = batch[: len(batch) - dims], batch[len(batch) - dims :]
        if tail.numel() == 1:  # every path at the same points
            values = output.evaluate(x.reshape(*lead, *x.shape[-2:]), self._first, stop)
            values = values.movedim(0, -2)
        else:
            own = x.reshape(*batch, *x.shape[-2:]).expand(*lead, *shape, *x.shape[-2:])
            own = own.reshape(*lead, count, *x.shape[-2:]).movedim(-3, 0)
            values = output.evaluate_paired(own, self._first).movedim(0, -2)
        return values.reshape(*lead, *shape, x.shape[-2])


class FixedPaths(SamplePath):
    """A deterministic model of one output as paths that are all the same, in the shapes of `PosteriorPaths`."""

    def __init__(self, model: DeterministicModel, sample_shape: torch.Size) -> None:
        super().__init__()
        self.model, self.sample_shape = model, torch.Size(sample_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Its values at x (*b, q, d): (*broadcast(b, sample_shape), q)."""
        values: Tensor = self.model(x).squeeze(-1)
        return values.expand(*torch.broadcast_shapes(values.shape[:-1], self.sample_shape), values.shape[-1])

    def set_ensemble_as_batch(self, ensemble_as_batch: bool) -> None:
        """Nothing to do: the model is not an ensemble."""


def _draw_fixed_paths(model: DeterministicModel, *, sample_shape: torch.Size, **options: Any) -> FixedPaths:
    """The function itself."""
    return FixedPaths(model, sample_shape)


def _draw_listed_paths(model: ModelList, *, sample_shape: torch.Size, **options: Any) -> PathList:
    """Paths of each model of the list, as BoTorch draws them for a `ModelListGP`."""
    return PathList([draw_matheron_paths(part, sample_shape, **options) for part in model.models])


for _kind, _draw in ((ModelList, _draw_listed_paths), (DeterministicModel, _draw_fixed_paths)):
    if (_kind,) not in DrawMatheronPaths.funcs:  # BoTorch's own rule, should it come to have one, stays
        DrawMatheronPaths.register(_kind)(_draw)


@DrawMatheronPaths.register(PathwiseGPModel)
def _draw_posterior_paths(
    model: PathwiseGPModel,
    *,
    sample_shape: torch.Size,
    prior_sampler: Any = None,
    update_strategy: Any = None,
) -> PosteriorPaths:
    """Paths of `model` that no earlier call has handed out.

    `prior_sampler` and `update_strategy` are part of BoTorch's call; sggp's own features and solver take their place.
    """
    model.eval()
    first = model.claim_paths(torch.Size(sample_shape).numel())
    transforms = get_input_transform(model), get_output_transform(model)
    dtype, check = model._raw_X.dtype, model.check_columns
    return PosteriorPaths(model.output_models, sample_shape, first, *transforms, dtype=dtype, check=check)
