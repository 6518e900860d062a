"""Checks of what callers pass to a `PathwiseGPModel`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sggp.arrays import check_plain, mean_and_std
from sggp.checks import whole_number
from sggp.errors import DtypeError, InputError, ShapeError


def check_training_data(X: Any, Y: Any, Yvar: Any) -> None:
    """X (n, d), Y (n, m) and Yvar (n, m) or None: floating tensors, finite, of one device and length.

    Raises:
        DtypeError, ShapeError, InputError: naming the argument, what it is and what was expected.
    """
    given = {"train_X": X, "train_Y": Y} | ({} if Yvar is None else {"train_Yvar": Yvar})
    for name, value in given.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise DtypeError(f"{name} must be a floating-point tensor, got {kind}: convert with .double().")
        if value.ndim != 2:
            hint = ": add the output dimension with .unsqueeze(-1)" if value.ndim == 1 else ""
            raise ShapeError(
                f"{name} must have shape (n, {'d' if value is X else 'm'}), got {tuple(value.shape)}{hint}."
            )
        if value.device != X.device:
            raise DtypeError(f"{name} is on {value.device} but train_X is on {X.device}: move one.")
        bad = (~value.isfinite()).any(dim=-1).nonzero().squeeze(-1)
        if len(bad):
            raise InputError(f"{name} holds NaN or infinity in rows {bad[:10].tolist()}: drop or fix them.")
    if len(X) == 0 or X.shape[1] == 0 or Y.shape[1] == 0:
        raise ShapeError(f"need at least one row, input, output; got {tuple(X.shape)} and {tuple(Y.shape)}.")
    if len(Y) != len(X):
        raise ShapeError(f"train_X has {len(X)} rows but train_Y has {len(Y)}.")
    if Yvar is not None:
        if Yvar.shape != Y.shape:
            raise ShapeError(f"train_Yvar must be {tuple(Y.shape)} like train_Y, got {tuple(Yvar.shape)}.")
        if bool((Yvar < 0).any()):
            raise InputError("train_Yvar holds negative numbers: pass variances.")


def check_transformed(transform: Any, name: str, **results: Tensor | None) -> None:
    """What a transform has made of finite training data is finite.

    Raises:
        InputError: naming the transform and rows: a logarithm of what is not positive, a standard deviation of one row.
    """
    for data, values in results.items():
        bad = [] if values is None else (~values.isfinite()).any(dim=-1).nonzero()[:, 0].tolist()
        if bad:
            raise InputError(
                f"{name} {type(transform).__name__} makes NaN or infinity of {data} in rows {bad[:10]}: it is not "
                "defined for these values, or for so few rows."
            )


def check_spread(Y: Tensor) -> None:
    """The variances of answers, in the type and squared units of Y (n, m), can be held.

    Raises:
        InputError: naming the spread that is too large or too small for it.
    """
    limits = torch.finfo(Y.dtype)
    for spread in mean_and_std(Y.detach().double().cpu().numpy())[1]:
        if spread and not 1e3 * limits.tiny**0.5 < spread < 0.1 * limits.max**0.5:
            wider = "multiply it by a constant" + ("" if Y.dtype == torch.float64 else ", or pass float64")
            raise InputError(
                f"train_Y has a spread of {spread:.3g}, whose square, a variance, {Y.dtype} does not hold: {wider}."
            )


def check_settings(
    num_samples: int,
    num_features: int,
    optimizer: str | None,
    covar_module: Any,
    noise_variance: Any,
    train_Yvar: Tensor | None,
) -> None:
    """Settings that must hold together."""
    whole_number(num_samples, "num_samples", least=2)
    whole_number(num_features, "num_features", least=2)
    if noise_variance is not None and train_Yvar is not None:
        raise InputError("pass either noise_variance or train_Yvar, not both.")
    if optimizer is None and (covar_module is None or (noise_variance is None and train_Yvar is None)):
        raise InputError(
            "optimizer=None uses hyperparameters as they are, so covar_module and one of noise_variance and train_Yvar "
            "must be given; or choose optimizer='auto'."
        )


def check_learnable(**transforms: Any) -> None:
    """No transform has parameters that would have to be learnt with the kernel.

    Raises:
        InputError: one has, such as `Warp`.
    """
    for name, transform in transforms.items():
        found = [] if transform is None else [n for n, p in transform.named_parameters() if p.requires_grad]
        if found:
            raise InputError(
                f"{name}: {type(transform).__name__} has parameters ({', '.join(found)}) that PathwiseGPModel does not "
                "learn. Call .requires_grad_(False) on the transform to use it with the values it has, for instance "
                "those that a SingleTaskGP learnt on a part of the data; or leave it out."
            )


def per_output(value: Any, m: int, name: str, single: Any) -> list[Any]:
    """One `value` for each of m outputs: a single one is repeated, a sequence of m is taken in order."""
    if value is None or isinstance(value, single):
        return [value] * m
    if isinstance(value, Tensor):
        value = value.reshape(-1).tolist()
    if not isinstance(value, (Sequence, torch.nn.ModuleList)) or isinstance(value, str):
        raise DtypeError(f"{name} must be one value or a sequence of {m}, got {type(value).__name__}.")
    if len(value) == 1 and m > 1 and not isinstance(value[0], torch.nn.Module):
        value = [value[0]] * m
    if len(value) != m or not all(isinstance(v, single) for v in value):
        kinds = sorted({type(v).__name__ for v in value})
        raise ShapeError(f"{name} needs one value per output ({m}), got {len(value)} of {', '.join(kinds)}.")
    return list(value)


def check_noise_variances(values: list[Any]) -> None:
    """Each given noise variance is finite and not negative."""
    bad = [v for v in values if v is not None and (isinstance(v, bool) or not 0 <= v < float("inf"))]
    if bad:
        raise InputError(f"noise_variance must be finite and not negative, got {bad[0]!r}: pass a variance.")


def check_points(X: Any, d: int | None) -> None:
    """X (*b, q, d), a tensor; None is any d."""
    if not isinstance(X, Tensor):
        raise DtypeError(f"X must be a torch.Tensor, got {type(X).__name__}.")
    check_plain(X, "points")
    if X.ndim < 2 or d not in (None, X.shape[-1]):
        raise ShapeError(f"X must have shape (*b, q, {d or 'd'}), got {tuple(X.shape)}.")


def check_added_noise(noise: Any, batch: Sequence[int], outputs: set[int]) -> None:
    """Noise variances to add to a posterior: a tensor, broadcastable to (*batch, m) for one of these numbers m.

    Raises:
        DtypeError, ShapeError, InputError: they are not.
    """
    if not isinstance(noise, Tensor):
        raise DtypeError(
            f"observation_noise must be True, False or a tensor of variances, got {noise!r} ({type(noise).__name__})."
        )
    shapes = [(*batch, m) for m in sorted(outputs)]
    if not any(_expands(tuple(noise.shape), shape) for shape in shapes):
        raise ShapeError(
            f"observation_noise must be broadcastable to {' or '.join(map(str, shapes))}, got {tuple(noise.shape)}."
        )
    if not bool(((noise >= 0) & noise.isfinite()).all()):
        raise InputError("observation_noise holds negative numbers, NaN or infinity: pass variances.")


def check_new_rows(
    X: Tensor, Y: Tensor, noise: Tensor | None, d: int, m: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """New rows for `condition_on_observations`: X (n', d), Y and noise (n', m); leading dimensions of size 1 go."""
    check_points(X, d)
    flat: list[Tensor] = []
    for name, value in [("X", X), ("Y", Y)] + ([] if noise is None else [("noise", noise)]):
        if not isinstance(value, Tensor):
            raise DtypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}.")
        if value.ndim < 2 or value.shape[:-2].numel() != 1:
            raise ShapeError(
                f"{name} has shape {tuple(value.shape)}: conditioning is unbatched, so X must be (n', {d}), Y and "
                f"noise (n', {m}). Condition once per set of outcomes, or use model.gaussian(), which takes batches."
            )
        value = value.reshape(value.shape[-2:])
        if flat and value.shape != (len(flat[0]), m):
            raise ShapeError(f"{name} must have shape {(len(flat[0]), m)}, got {tuple(value.shape)}.")
        flat.append(value)
    if noise is not None and bool((~(noise >= 0)).any()):
        raise InputError("noise holds negative numbers or NaN: pass variances.")
    if not bool(flat[0].isfinite().all()) or not bool(flat[1].isfinite().all()):
        raise InputError("X or Y holds NaN or infinity: drop those rows.")
    return flat[0], flat[1], None if noise is None else flat[2]


def check_observations(X: Any, Y: Any, noise: Any, d: int, m: int) -> None:
    """New observations in batches: X (*b, k, d), Y (*f, *b, k, m), noise broadcastable to Y or None."""
    check_points(X, d)
    for name, value in [("Y", Y)] + ([] if noise is None else [("noise", noise)]):
        if not isinstance(value, Tensor):
            raise DtypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}.")
    k, batch = X.shape[-2], tuple(X.shape[:-2])
    if Y.ndim < 2 or tuple(Y.shape[-2:]) != (k, m) or not _broadcast(batch, tuple(Y.shape[:-2])):
        raise ShapeError(
            f"Y must have shape (*f, *b, {k}, {m}) with b = {batch} as X has it, got {tuple(Y.shape)}."
        )
    if not bool(X.isfinite().all()) or not bool(Y.isfinite().all()):
        raise InputError("X or Y holds NaN or infinity: drop those rows.")
    if noise is None:
        return
    if not _broadcast(tuple(noise.shape), tuple(Y.shape)):
        raise ShapeError(f"noise must be broadcastable to Y, {tuple(Y.shape)}, got {tuple(noise.shape)}.")
    if bool((~(noise >= 0)).any()):
        raise InputError("noise holds negative numbers or NaN: pass variances.")


def _broadcast(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Whether the shapes broadcast."""
    pairs = zip(reversed(first), reversed(second), strict=False)
    return all(a == b or 1 in (a, b) for a, b in pairs)


def _expands(first: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether one shape broadcasts to the other."""
    return len(first) <= len(to) and all(
        a in (1, b) for a, b in zip(reversed(first), reversed(to), strict=False)
    )
