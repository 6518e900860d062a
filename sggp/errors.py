"""Every error and warning that sggp raises on purpose.

Misuse is an error whose message says what was given, what was expected and what to do. Numerical failure is a
``Status`` inside a ``Solution``; it becomes `SolverFailure` only when the caller asks for that.
"""

from __future__ import annotations

from typing import Any


class SggpError(Exception):
    """Base class of all errors raised by sggp."""


class InputError(SggpError, ValueError):
    """A value cannot be used: NaN, empty, negative, unknown option."""


class ShapeError(InputError):
    """An array has the wrong shape, or two arrays do not fit together."""


class DtypeError(SggpError, TypeError):
    """An array or argument has a type that cannot be used."""


class UnsupportedKernel(SggpError, TypeError):
    """The kernel has a structure (batch shape, several outputs per input) that products cannot use."""


class NoRandomFeatures(SggpError, NotImplementedError):
    """No random features are registered for this kernel type."""


class NoJointGaussian(SggpError, AttributeError):
    """A posterior of paths was asked for its multivariate normal distribution, which `model.gaussian()` gives."""


class UnsupportedOperator(SggpError, TypeError):
    """A solver or preconditioner needs a product that the operator does not offer."""


class MemoryBudgetError(SggpError, MemoryError):
    """A request would need more memory than its budget; raised before anything is allocated."""


class SolverFailure(SggpError, RuntimeError):
    """A solve did not reach its tolerance and the caller asked for an exception; `solution` holds what was found."""

    def __init__(self, message: str, solution: Any = None) -> None:
        super().__init__(message)
        self.solution = solution


class MissingExtra(SggpError, ImportError):
    """An optional dependency is not installed, or cannot be loaded; the message says which, and names the extra."""


def missing_extra(what: str, extra: str, error: ImportError, instead: str = "") -> MissingExtra:
    """The error where `what` ("plots need matplotlib") asks for an optional package that was not imported.

    A package that is there may fail to load, for want of a library of the system or of a package of its own: to be told
    that it is not installed sends people in a circle.

    Args:
        extra: the extra of sggp that has it. error: what the import raised. instead: what else can be done.
    """
    absent = isinstance(error, ModuleNotFoundError)
    state = "is not installed" if absent else "cannot be loaded"
    cure = "Install it with" if absent else "Install what that names, or it anew with"
    return MissingExtra(f'{what}, which {state} ({error}). {cure}: pip install "sggp[{extra}]"{instead}.')


class MoleculeError(InputError):
    """One or more SMILES cannot be used; `report` lists every offending row."""

    def __init__(self, message: str, report: Any = None) -> None:
        super().__init__(message)
        self.report = report


class Exhausted(InputError):
    """Fewer points are left than were asked for, or the campaign's budget pays for none."""


class DataFileError(InputError):
    """A file is missing, empty, lacks a column or cannot be read."""


class CheckpointError(InputError):
    """A checkpoint is damaged, cannot be written, or was written for another solve."""


class RankLost(SggpError, RuntimeError):
    """Another rank of a distributed run died or did not answer in time; the message says which one and what to do."""


class RanksDiverged(SggpError, RuntimeError):
    """The ranks of a distributed run hold different data, seeds or settings, or are at different places."""


class Stopped(SggpError):
    """A signal, or whoever holds the `sggp.running.Stop`, ended a computation before there was anything to keep."""


class SggpWarning(UserWarning):
    """Base class of all warnings issued by sggp."""


class NotConverged(SggpWarning):
    """A solve ended before every column reached its tolerance."""


class NotSaved(SggpWarning):
    """Something of the user's own cannot be written to a file; the message says what, and how to give it again."""


class PrecisionWarning(SggpWarning):
    """The tolerance asked for is below what the working precision can deliver."""


class MoleculeWarning(SggpWarning):
    """Molecules were left out, masked or saturated because the caller asked for that instead of an error."""


class UnidentifiedColumns(SggpWarning):
    """Input columns that the data say nothing, or nothing separate, about: constant, or copies of another column."""


class UnlearntKernel(SggpWarning):
    """Parameters of a kernel stay as given, since the kernel has no gradient to learn them by; the message names it."""


class OutlyingValues(SggpWarning):
    """Measured values lie so far from all others that a campaign's model leaves them out; the message names them."""


class LibraryChanged(SggpWarning):
    """Molecules of a campaign are no longer in its library; the message names them."""


class BudgetWarning(SggpWarning):
    """A batch is smaller than was asked for, since the campaign's budget pays for no more."""


class SlowVariance(SggpWarning):
    """Exact variances, each of which is a solve, will take long; samples would give them in a few products."""
