"""The ranks of a `torchrun`, or the devices of one host, that share products with a kernel matrix."""

from sggp.parallel.block import distributed
from sggp.parallel.devices import Devices
from sggp.parallel.ranks import Ranks
from sggp.parallel.workers import Part, Workers, by_ranks, current, entered

__all__ = ["Devices", "Part", "Ranks", "Workers", "by_ranks", "current", "distributed", "entered"]
