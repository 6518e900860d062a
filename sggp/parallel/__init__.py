"""The ranks of a `torchrun`, or the devices of one host, that share products with a kernel matrix."""

from typing import TYPE_CHECKING

from sggp.lazy import names_on_demand
from sggp.parallel.workers import Part, Workers, by_ranks, current, entered

if TYPE_CHECKING:
    from sggp.parallel.block import distributed
    from sggp.parallel.devices import Devices
    from sggp.parallel.ranks import Ranks

__all__ = ["Devices", "Part", "Ranks", "Workers", "by_ranks", "current", "distributed", "entered"]

_NAMES_OF = {
    "sggp.parallel.block": ("distributed",),
    "sggp.parallel.devices": ("Devices",),
    "sggp.parallel.ranks": ("Ranks",),
}
__getattr__, __dir__ = names_on_demand(__name__, _NAMES_OF, further=__all__)
