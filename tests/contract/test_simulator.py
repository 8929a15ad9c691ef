"""The conformance suite on the simulator."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pileus.testing.conformance import DriverConformanceTests, DriverUnderTest
from pileus.testing.conformance.simulated import simulator_under_test


class TestSimulator(DriverConformanceTests):
    @pytest.fixture
    def subject(self) -> Iterator[DriverUnderTest]:
        with simulator_under_test() as subject:
            yield subject


class TestSimulatorWithListingLag(DriverConformanceTests):
    @pytest.fixture
    def subject(self) -> Iterator[DriverUnderTest]:
        with simulator_under_test(listing_lag_s=3.0) as subject:
            yield subject
