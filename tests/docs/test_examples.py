"""The examples, the demonstration and the Python of the documentation run on local servers, and leave none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}:{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL), 1)
    if page.name != "write-a-driver.md"  # its example is a package, with tests of its own
]


@pytest.fixture
def run(tmp_path: Path) -> object:
    """Run a program with a home of its own; afterwards nothing may be left there."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PILEUS_", "XDG_", "PYTEST_"))
    }
    environment |= {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PILEUS_LOCAL_HELPER_IDLE": "1",
        "PILEUS_LOCAL_OVERCOMMIT": "100",  # other programs of this machine count, too
        "PYTHONWARNINGS": "error",
    }

    def start(*command: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        trees = home / ".local/share/pileus/local"
        assert not trees.exists() or not list(trees.iterdir())
        return done

    return start


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_and_says_nothing_on_stderr(example: Path, run) -> None:  # type: ignore[no-untyped-def]
    done = run(sys.executable, str(example))
    assert done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("block", BLOCKS)
def test_python_in_the_documentation_runs(block: str, run) -> None:  # type: ignore[no-untyped-def]
    run(sys.executable, "-c", block)


def test_the_demonstration_runs_and_ends_with_nothing_left(run) -> None:  # type: ignore[no-untyped-def]
    done = run("sh", str(ROOT / "examples" / "demo.sh"))
    assert "\n1\n2\n3\n" in done.stdout
    assert "server 1 of 2" in done.stdout


def test_the_readme_reaches_a_running_command_within_25_lines() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert any(line.startswith("pileus run") for line in lines[:25])
