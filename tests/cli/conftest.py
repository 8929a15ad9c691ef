from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

PILEUS = str(Path(sys.executable).with_name("pileus"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, of which everything of a user's is derived, and an environment without any setting of ours."""
    for variable in list(os.environ):
        if variable.startswith(("PILEUS_", "XDG_")):
            monkeypatch.delenv(variable)
    directory = tmp_path / "home"
    directory.mkdir()
    monkeypatch.setenv("HOME", str(directory))
    monkeypatch.setenv("PILEUS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TERM", "xterm-256color")
    return directory


@pytest.fixture
def pileus(home: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run the installed command in a working directory of its own."""
    work = tmp_path / "work"
    work.mkdir()

    def call(
        *words: str, stdin: bytes = b"", environment: Mapping[str, str] | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [PILEUS, *words],
            input=stdin,
            capture_output=True,
            cwd=work,
            env={**os.environ, **(environment or {})},
            timeout=timeout,
        )

    return call
