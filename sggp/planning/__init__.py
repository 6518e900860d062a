"""Plans: what a fit will take, from what a device does in a second and what a fit asks of it."""

from sggp.planning.costs import Job, Part, product_seconds
from sggp.planning.devices import NAMED, Device, device_named, this_machine
from sggp.planning.plan import Plan, plan_fit

__all__ = [
    "NAMED",
    "Device",
    "Job",
    "Part",
    "Plan",
    "device_named",
    "plan_fit",
    "product_seconds",
    "this_machine",
]
