"""`draw_features`: from a kernel to a random-feature map, by a table of rules that anybody can extend."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import torch
from gpytorch.kernels import Kernel

from sggp.checks import whole_number
from sggp.errors import DtypeError, InputError, NoRandomFeatures, ShapeError
from sggp.kernels.convert import check_kernel_structure
from sggp.kernels.features.base import FeatureMap
from sggp.random import as_generator
from sggp.typing import Seed


class FeatureRule(Protocol):
    """How features are drawn for one kernel type; `input_dim` counts the columns left by `active_dims`."""

    def __call__(
        self, kernel: Any, num_features: int, *, input_dim: int, generator: torch.Generator
    ) -> FeatureMap: ...


def _no_rule(kernel: Any, num_features: int, *, input_dim: int, generator: torch.Generator) -> FeatureMap:
    raise _missing(type(kernel).__name__, "no random features are registered for it")


def _missing(name: str, why: str) -> NoRandomFeatures:
    return NoRandomFeatures(
        f"cannot draw random features for {name}: {why}. Either register a rule with "
        f"@draw_features.register({name}) (docs/kernels.md), or use what needs only products of the kernel: "
        'the posterior mean, and variance(method="solve").'
    )


class DrawFeatures:
    """The function `draw_features`, with `register` to teach it another kernel type."""

    def __init__(self) -> None:
        self._rules = functools.singledispatch(_no_rule)

    def register(self, kernel_type: type) -> Callable[[FeatureRule], FeatureRule]:
        """Decorator: use the decorated rule for kernels of `kernel_type`.

        The rule is called as ``rule(kernel, num_features, input_dim=…, generator=…)`` and returns a
        `FeatureMap`. It need not look at `active_dims`: the points it sees have been restricted already.
        A subclass that overrides `forward` is a different kernel and does not inherit the rule.
        """

        def decorate(rule: FeatureRule) -> FeatureRule:
            self._rules.register(kernel_type)(rule)
            return rule

        return decorate

    def __call__(self, kernel: Kernel, num_features: int, *, input_dim: int, generator: Seed) -> FeatureMap:
        """Draw a random feature map φ with E[φ(x)·φ(z)] = k(x, z), output scale included.

        Args:
            kernel: a GPyTorch kernel of a registered type: RBF, Matérn, RQ, periodic, linear, constant, the two
                Tanimoto kernels, and scales, sums and products of these, with `active_dims` and ARD.
            num_features: about how many features p to use. Rounded to whole groups (even for stationary
                kernels), at least one group; exact maps (linear, constant) use as many as they need. Read
                `FeatureMap.num_features` for the number drawn.
            input_dim: d, the number of columns of the points.
            generator: CPU generator, or an int; all randomness comes from it, and equal states give equal maps.

        Returns:
            A frozen `FeatureMap`; the kernel's parameters are copied, later changes to the kernel are not
            seen.

        Raises:
            NoRandomFeatures: no rule for the kernel or a part of it.
            UnsupportedKernel: the kernel has a batch shape or several outputs per input.
            ShapeError: `input_dim` does not fit the kernel's `active_dims` or ARD length scales.
            InputError: `num_features` or `input_dim` is not a positive integer.
        """
        num_features = whole_number(num_features, "num_features")
        input_dim = whole_number(input_dim, "input_dim")
        if generator is None:
            raise InputError(
                "draw_features has no default seed: pass a torch.Generator or an int as generator."
            )
        if not isinstance(kernel, Kernel):
            raise DtypeError(f"expected a gpytorch.kernels.Kernel, got {type(kernel).__name__}.")
        check_kernel_structure(kernel)
        return self.part(kernel, num_features, input_dim=input_dim, generator=as_generator(generator))

    def part(
        self, kernel: Kernel, num_features: int, *, input_dim: int, generator: torch.Generator
    ) -> FeatureMap:
        """Features of a kernel inside another (its own `active_dims` count), without checking the arguments."""
        columns = kernel.active_dims
        if columns is None:
            return self.without_columns(kernel, num_features, input_dim=input_dim, generator=generator)
        columns = columns.detach().to("cpu")
        if int(columns.max()) >= input_dim:
            raise ShapeError(
                f"{type(kernel).__name__} has active_dims {columns.tolist()} but the points have "
                f"{input_dim} columns."
            )
        inner = self.without_columns(kernel, num_features, input_dim=len(columns), generator=generator)
        return inner.on_columns(columns, input_dim)

    def without_columns(
        self, kernel: Kernel, num_features: int, *, input_dim: int, generator: torch.Generator
    ) -> FeatureMap:
        """Features of `kernel` on points already restricted to its `active_dims`."""
        kind = type(kernel)
        owner = next((base for base in kind.__mro__ if base in self._rules.registry), object)
        if owner is not object and getattr(kind, "forward", None) is not getattr(owner, "forward", None):
            why = f"it overrides forward of {owner.__name__}, whose rule may not hold for it"
            raise _missing(kind.__name__, why)
        rule: FeatureRule = self._rules.dispatch(kind)
        return rule(kernel, num_features, input_dim=input_dim, generator=generator)


draw_features = DrawFeatures()
