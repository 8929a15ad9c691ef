"""What a new server runs first, and the few commands that are run on it later: pure text, no I/O.

Everything here is POSIX `sh` (dash, BusyBox and bash alike). A script is rendered for one `BootTarget`: with an empty root
for a real machine, else for a tree that shares ours, and then nothing in it names a path outside of the tree or a command
that could reach the host's power. `docs/design/0005-boot.md` has the why of each step.
"""

from pileus.boot.commands import (
    FAILED,
    TIMED_OUT,
    make_host_key,
    power_off,
    read_failure,
    renew_lease,
    switch_host_key,
    wait_for_sentinel,
)
from pileus.boot.plan import BootPlan, Paths
from pileus.boot.userdata import render

__all__ = [
    "FAILED",
    "TIMED_OUT",
    "BootPlan",
    "Paths",
    "make_host_key",
    "power_off",
    "read_failure",
    "render",
    "renew_lease",
    "switch_host_key",
    "wait_for_sentinel",
]
