"""Tables of numbers of any size: read a block of rows at a time, as numbers and not as text."""

from __future__ import annotations

from sggp.molecules.files.numeric.matrix import Matrix, read_matrix
from sggp.molecules.files.numeric.opening import open_numbers
from sggp.molecules.files.numeric.source import NumberBlock, NumberFile

__all__ = ["Matrix", "NumberBlock", "NumberFile", "open_numbers", "read_matrix"]
