"""The conformance suite on the local provider, at each level of isolation."""

from __future__ import annotations

from pathlib import Path

import pytest

from pileus.drivers.local import LocalDriver
from pileus.testing.conformance import DriverConformanceTests, DriverUnderTest

BOOT = b"#!/bin/sh\necho booted\n"


def under_test(directory: Path, isolation: str) -> DriverUnderTest:
    settings = {"dir": str(directory), "overcommit": "10000", "isolation": isolation}
    return DriverUnderTest(
        make=lambda: LocalDriver(settings),
        user_data=BOOT,
        poll_s=0.01,
        exists=lambda server_id: (directory / server_id).exists(),
        heavy_modules=("asyncssh", "cryptography"),
    )


class TestLocal(DriverConformanceTests):
    @pytest.fixture
    def subject(self, tmp_path: Path) -> DriverUnderTest:
        return under_test(tmp_path, "auto")


class TestLocalWithSubreaper(DriverConformanceTests):
    @pytest.fixture
    def subject(self, tmp_path: Path) -> DriverUnderTest:
        return under_test(tmp_path, "subreaper")


class TestLocalWithMarker(DriverConformanceTests):
    @pytest.fixture
    def subject(self, tmp_path: Path) -> DriverUnderTest:
        return under_test(tmp_path, "marker")
