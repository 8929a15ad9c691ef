"""The simulator as a driver under test: an example of all hooks, and the ground on which broken drivers are shown."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from pileus.testing import rules
from pileus.testing.clock import ManualClock
from pileus.testing.conformance.subject import DriverUnderTest
from pileus.testing.simulator import SimulatorDriver, simulated_cloud


@contextmanager
def simulator_under_test(
    kind: type[SimulatorDriver] = SimulatorDriver, *, timeout_s: float = 30.0, listing_lag_s: float = 0.0
) -> Iterator[DriverUnderTest]:
    """A `SimulatorDriver`, or a subclass, on a cloud of its own whose clock moves only when a check waits."""
    name, clock = f"conformance-{secrets.token_hex(4)}", ManualClock(settle_s=0.0)
    with simulated_cloud(name, clock, boot_s=5.0, delete_s=2.0, listing_lag_s=listing_lag_s) as cloud:

        @contextmanager
        def stall() -> Iterator[None]:
            cloud.add_rules(*[rules.Hang(operation=operation) for operation in ("list_servers", "create_servers")])
            try:
                yield
            finally:
                cloud.clear_rules()

        @contextmanager
        def hold_boots() -> Iterator[None]:
            cloud.add_rules(rules.StuckBuilding())
            try:
                yield
            finally:
                cloud.clear_rules()

        yield DriverUnderTest(
            make=lambda: kind({"cloud": name}),
            many=25,
            timeout_s=timeout_s,
            call_timeout_s=10.0,
            poll_s=0.5,
            sleep=clock.tick,
            exists=lambda server_id: any(thing.id == server_id for thing in cloud.everything()),
            plant=lambda server_name: cloud.plant(name=server_name),
            stall=stall,
            hold_boots=hold_boots,
            heavy_modules=("asyncssh", "boto3", "openstack", "xmlrpc.server"),
        )
