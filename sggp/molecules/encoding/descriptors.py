"""Twelve descriptors of a molecule as whole numbers 0 … 255, on scales that never depend on the data.

A descriptor v is stored as round((v - low) / step), cut to 0 … 255. The steps are about a twelfth of the standard
deviation over drug-like molecules (ZINC), so that one length scale suits all columns, and a molecule is encoded alike
whatever library it is in. A value that is not a number (kappa 2 of a single atom) is stored as 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

STEPS_PER_DEVIATION = 12
"""Steps in a standard deviation over drug-like molecules, about."""


class Descriptor(NamedTuple):
    """One column: the descriptor's name, the value stored as 0, and what a step of the stored number stands for."""

    name: str
    low: float
    step: float


DESCRIPTORS = (
    Descriptor("molecular_weight", 0.0, 5.0),  # g/mol, up to 1,275
    Descriptor("tpsa", 0.0, 2.0),  # topological polar surface area in square angstrom, up to 510
    Descriptor("logp", -10.0, 0.1),  # Crippen's, up to 15.5
    Descriptor("donors", 0.0, 1 / 15),  # hydrogen bond donors, up to 17
    Descriptor("acceptors", 0.0, 0.1),  # hydrogen bond acceptors, up to 25
    Descriptor("rotatable_bonds", 0.0, 0.1),  # up to 25
    Descriptor("rings", 0.0, 1 / 15),  # up to 17
    Descriptor("aromatic_rings", 0.0, 1 / 15),  # up to 17
    Descriptor("sp3_share", 0.0, 1 / 60),  # of the carbon atoms, 0 to 1
    Descriptor("heavy_atoms", 0.0, 1 / 3),  # up to 85
    Descriptor("labute_area", 0.0, 2.0),  # approximate surface area in square angstrom, up to 510
    Descriptor("kappa2", 0.0, 0.1),  # shape index, up to 25.5
)


def quantise(values: np.ndarray) -> np.ndarray:  # (n, 12) float -> (n, 12) uint8
    """Descriptors in the order of `DESCRIPTORS` as they are stored; what is not a number becomes 0."""
    low = np.asarray([d.low for d in DESCRIPTORS])
    step = np.asarray([d.step for d in DESCRIPTORS])
    scaled = (np.asarray(values, dtype=np.float64) - low) / step
    return np.rint(np.clip(np.nan_to_num(scaled, nan=0.0), 0.0, 255.0)).astype(np.uint8)
