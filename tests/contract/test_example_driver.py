"""The driver that the guide builds passes the suite, and the guide shows what is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "driver"
PAGE = ROOT / "docs" / "guide" / "write-a-driver.md"


def run(*command: str, path: tuple[Path, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    places = os.pathsep.join(str(place) for place in (EXAMPLE / "src", *path))
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={**os.environ, "PYTHONPATH": places, **environment},
    )


def test_its_own_tests_pass(tmp_path: Path) -> None:
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path}/t", str(EXAMPLE / "tests"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout
    [skipped] = re.findall(r"(\d+) skipped", done.stdout)
    assert skipped == "1"  # there is no way to stall a folder


def test_its_entry_point_makes_it_a_provider(tmp_path: Path) -> None:
    declared = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["entry-points"]["pileus.drivers"]
    information = tmp_path / "pileus_folder-0.1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: pileus-folder\nVersion: 0.1.0\n")
    lines = [f"{name} = {value}" for name, value in declared.items()]
    (information / "entry_points.txt").write_text("\n".join(["[pileus.drivers]", *lines]) + "\n")
    program = (
        "from pileus.drivers import registry; from pileus.errors import ConfigError\n"
        "assert 'folder' in registry.names(); print(registry.load('folder')({'directory': '/'}).name)"
    )
    done = run("-c", program, path=(tmp_path,))
    assert done.stdout == "folder\n", done.stderr


def test_the_report_can_be_had_without_pytest(tmp_path: Path) -> None:
    [program] = re.findall(r"```python\n(from pileus_folder.*?)```", PAGE.read_text(), re.DOTALL)
    done = run("-c", "import sys; sys.modules['pytest'] = None\n" + program, FOLDER_CLOUD=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "0 failed" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_an_error_and_not_empty(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pileus_folder import FolderDriver; from pileus.drivers.base import Call\n"
        "from pileus.errors import ProviderError\n"
        "try: FolderDriver({'directory': sys.argv[1]}).list_servers(None, Call('r', time.monotonic() + 5))\n"
        "except ProviderError as problem: print(problem.operation, problem.request_id)"
    )
    done = run("-c", program, str(tmp_path / "none"))
    assert done.stdout == "list_servers r\n", done.stderr


def code_blocks() -> list[str]:
    return re.findall(r"^```(?:python|toml)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", code_blocks(), ids=lambda block: block.strip().splitlines()[0][:50])
def test_what_the_guide_shows_stands_in_the_example_or_runs(block: str) -> None:
    files = [EXAMPLE / "pyproject.toml", *EXAMPLE.rglob("*.py")]
    if any(block in file.read_text() for file in files):
        return
    if "pileus_folder" in block:
        return  # run as a program above
    done = run("-c", block)
    assert done.returncode == 0, done.stderr
