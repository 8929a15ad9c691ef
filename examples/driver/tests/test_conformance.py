"""The conformance suite on the folder driver."""

from pathlib import Path

import pytest
from pileus_folder import FolderDriver

from pileus.testing.conformance import DriverConformanceTests, DriverUnderTest


class TestFolder(DriverConformanceTests):
    """Each check is a test of this class."""

    @pytest.fixture
    def subject(self, tmp_path: Path) -> DriverUnderTest:
        """The driver on a folder of its own."""
        settings = {"directory": str(tmp_path)}
        return DriverUnderTest(make=lambda: FolderDriver(settings), heavy_modules=("asyncssh",))
