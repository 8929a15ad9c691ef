"""For tests: a simulated cloud with faults, a clock to drive by hand, and the suite that every driver must pass.

- `simulated_cloud`, `SimulatedCloud`: a cloud in this process; `rules`: what can go wrong in it.
- `SimulatorDriver`: provider `simulator`, the driver on it.
- `simulator_process`: the same cloud as a process of its own.
- `ManualClock`: time that moves only when told to.
- `conformance`: the checks for authors of drivers; `broken`: drivers that fail them, one check each.

Nothing here needs pytest.
"""

from pileus.testing import rules
from pileus.testing.clock import ManualClock
from pileus.testing.cloud import LoggedCall, SimulatedCloud
from pileus.testing.simulator import SimulatorDriver, cloud_named, forget_cloud, simulated_cloud

__all__ = [
    "LoggedCall",
    "ManualClock",
    "SimulatedCloud",
    "SimulatorDriver",
    "cloud_named",
    "forget_cloud",
    "rules",
    "simulated_cloud",
]
