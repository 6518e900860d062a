"""The Jacobian of a network in its weights, as features, by forward and reverse products."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vjp, vmap

from sggp.checks import finite_number, whole_number
from sggp.errors import DtypeError, InputError, ShapeError
from sggp.linear.features import RowIndex

__all__ = ["JacobianFeatures"]


class JacobianFeatures:
    """φ(x) = ∂f(x, θ)/∂θ at the weights θ* a network has now, known by Jacobian products.

    `apply` is a forward product J v, `adjoint` a reverse product Jᵀv. The Jacobian is kept, from the first product on,
    only where its n·o·D numbers fit `memory_budget`; otherwise it is never formed. The network, its weights and its
    buffers are copied, so that training it further changes nothing here.

    Args:
        network: a module in evaluation mode that maps (b, …) to (b, o) or (b,).
        inputs: (n, …), a floating-point tensor whose first dimension runs over data points.
        parameters: names, as in `network.named_parameters()`, of the weights that are uncertain; None takes all that
            require gradients.
        batch_size: rows of one product.
        columns: columns of one product; with `batch_size` it bounds the memory, about batch_size·columns times the
            activations of one row.
        memory_budget: bytes that a kept Jacobian may take; 0 keeps none. A product with a kept one is a matrix product.

    Raises:
        InputError: the network is in training mode, a name is unknown, an input is not finite, or the network cannot be
            called on the inputs.
        ShapeError: the network's output is neither (b, o) nor (b,).

    Cost:
        `apply` about two forward passes a column, `adjoint` about one backward pass a column.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Tensor,
        *,
        parameters: Sequence[str] | None = None,
        batch_size: int = 256,
        columns: int = 32,
        memory_budget: float = 2**28,
    ) -> None:
        if not isinstance(network, nn.Module):
            raise DtypeError(f"network must be a torch.nn.Module, got {type(network).__name__}.")
        if any(module.training for module in network.modules()):
            raise InputError(
                "the network is in training mode, in which its output may be random or depend on the batch: "
                "call network.eval() first."
            )
        self.batch_size, self._columns = (
            whole_number(batch_size, "batch_size"),
            whole_number(columns, "columns"),
        )
        if not isinstance(inputs, Tensor):
            raise DtypeError(f"x, the inputs, must be a torch.Tensor (n, …), got {type(inputs).__name__}.")
        if inputs.ndim < 1 or len(inputs) == 0:
            raise ShapeError(f"x, the inputs, must hold at least one row, got shape {tuple(inputs.shape)}.")
        _require_finite(inputs)
        self.network = copy.deepcopy(network)
        every = dict(self.network.named_parameters())
        if isinstance(parameters, str):
            raise InputError(f"parameters must be a list of names, as in [{parameters!r}].")
        chosen = [k for k, p in every.items() if p.requires_grad] if parameters is None else list(parameters)
        unknown = [name for name in chosen if name not in every]
        if unknown or not chosen:
            raise InputError(
                f"unknown or no parameters: {[k if isinstance(k, str) else type(k).__name__ for k in unknown]}; the "
                f"network has {', '.join(every)}."
            )
        self._weights = {name: every[name].detach() for name in chosen}
        self._rest = {name: p.detach() for name, p in every.items() if name not in self._weights}
        self._rest |= dict(self.network.named_buffers())
        self.inputs = inputs.detach()
        try:
            self.num_outputs = self.outputs(slice(0, 1)).shape[1]
        except RuntimeError as error:
            raise InputError(
                f"the network cannot be called on rows {tuple(inputs.shape[1:])} of {inputs.dtype}; its weights are "
                f"{every[chosen[0]].dtype} on {every[chosen[0]].device}. It said: {error}"
            ) from error
        self.num_weights = sum(p.numel() for p in self._weights.values())
        self.dtype, self.device = every[chosen[0]].dtype, every[chosen[0]].device
        size = self.num_rows * self.num_outputs * self.num_weights * self.dtype.itemsize
        self._keeps = size <= finite_number(memory_budget, "memory_budget")
        self._kept: Tensor | None = None

    @property
    def num_rows(self) -> int:
        return len(self.inputs)

    @property
    def weights(self) -> Tensor:  # (D,)
        """θ*, flat, in the order of the names."""
        return torch.cat([p.reshape(-1) for p in self._weights.values()])

    def at(self, inputs: Tensor) -> JacobianFeatures:
        """The same network and weights at other inputs."""
        if not isinstance(inputs, Tensor) or (inputs.dtype, inputs.device) != (
            self.inputs.dtype,
            self.inputs.device,
        ):
            found = (
                f"{inputs.dtype} on {inputs.device}" if isinstance(inputs, Tensor) else type(inputs).__name__
            )
            raise DtypeError(
                f"inputs must be a torch.Tensor of {self.inputs.dtype} on {self.inputs.device}, as those of the fit, "
                f"got {found}."
            )
        if inputs.ndim < 1 or inputs.shape[1:] != self.inputs.shape[1:] or len(inputs) == 0:
            raise ShapeError(
                f"inputs must be (m, {', '.join(map(str, self.inputs.shape[1:]))}), got {tuple(inputs.shape)}."
            )
        _require_finite(inputs)
        other = copy.copy(self)
        other.inputs = inputs.detach()
        other._keeps, other._kept = False, None
        return other

    def outputs(self, rows: RowIndex) -> Tensor:  # -> (b, o)
        """f(x_i, θ*)."""
        return self._function(rows)(self._weights).detach()

    def apply(self, weights: Tensor, rows: RowIndex) -> Tensor:  # (D, s) -> (b, o, s)
        """J_i w for the rows asked for, by forward products."""
        if self._keeps:
            return self._jacobian()[rows] @ weights
        function = self._function(rows)

        def column(w: Tensor) -> Tensor:
            return jvp(function, (self._weights,), (self._unflatten(w),))[1]

        return vmap(column, in_dims=1, out_dims=2, chunk_size=self._columns)(weights).detach()

    def adjoint(self, v: Tensor, rows: RowIndex) -> Tensor:  # (b, o, s) -> (D, s)
        """Σ_i J_iᵀ v_i over the rows asked for, by reverse products."""
        if self._keeps:
            block = self._jacobian()[rows]
            return block.reshape(-1, self.num_weights).T @ v.reshape(-1, v.shape[-1])
        pull = vjp(self._function(rows), self._weights)[1]

        def column(u: Tensor) -> Tensor:
            (gradient,) = pull(u)
            return torch.cat([gradient[name].reshape(-1) for name in self._weights])

        return vmap(column, in_dims=2, out_dims=1, chunk_size=self._columns)(v).detach()

    def _function(self, rows: RowIndex) -> Callable[[dict[str, Tensor]], Tensor]:
        x = self.inputs[rows]

        def function(weights: dict[str, Tensor]) -> Tensor:
            out = functional_call(self.network, {**self._rest, **weights}, (x,))
            if not isinstance(out, Tensor) or out.ndim not in (1, 2) or len(out) != len(x):
                found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
                raise ShapeError(f"the network must map {len(x)} rows to ({len(x)}, o), got {found}.")
            return out[:, None] if out.ndim == 1 else out

        return function

    def _jacobian(self) -> Tensor:  # -> (n, o, D)
        """J, formed at the first call by o reverse passes a row."""
        if self._kept is None:

            def row(weights: dict[str, Tensor], x: Tensor) -> Tensor:
                return functional_call(self.network, {**self._rest, **weights}, (x[None],)).reshape(-1)

            parts = vmap(jacrev(row), in_dims=(None, 0), chunk_size=self.batch_size)(
                self._weights, self.inputs
            )
            self._kept = torch.cat([parts[name].flatten(2) for name in self._weights], dim=2).detach()
        return self._kept

    def _unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        parts = flat.split([p.numel() for p in self._weights.values()])
        return {
            name: part.reshape(p.shape) for part, (name, p) in zip(parts, self._weights.items(), strict=True)
        }


def _require_finite(inputs: Tensor) -> None:
    if not bool(torch.isfinite(inputs).all()):
        raise InputError("x, the inputs, holds NaN or infinity; remove those rows.")
