"""What the package shows, what importing it costs, and which layer knows which."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pileus

ROOT = Path(pileus.__file__).parent

KNOWS = {
    "errors": {"models"},  # for types only
    "models": {"errors"},
    "clock": set(),
    "drivers": {"drivers", "errors", "models"},
    "state": {"state", "errors"},
    "remote": {"remote", "errors", "models"},
    "boot": {"boot", "errors", "models"},
    "policy": {"policy", "errors", "models"},
    "core": {"core", "drivers", "state", "remote", "boot", "policy", "errors", "models", "clock", "server", "provider"},
    "server": {"core", "drivers", "state", "policy", "errors", "models", "provider"},
    "provider": {"core", "drivers", "state", "policy", "errors", "models", "clock", "server"},
}
"""For each lower layer, the ones that it may import. `core`, `server` and `provider` are one layer."""


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pileus"):
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("pileus.")}
    return found


@pytest.mark.parametrize("layer", sorted(KNOWS))
def test_a_layer_knows_only_those_below_it(layer: str) -> None:
    place = ROOT / layer
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    assert files
    for file in files:
        strangers = imports_of(file) - KNOWS[layer]
        assert not strangers, f"{file.relative_to(ROOT)} imports {sorted(strangers)}"


def test_importing_the_package_loads_no_ssh_and_no_sdk() -> None:
    code = (
        "import sys, pileus; heavy = {'asyncssh', 'boto3', 'openstack', 'rich', 'click', 'sqlite3', 'asyncio'}"
        " & set(sys.modules); assert not heavy, heavy; assert pileus.Flavor; assert pileus.PileusError"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_drivers_are_found_without_loading_ssh_or_sdks() -> None:
    code = (
        "import sys; from pileus.drivers import registry; registry.load('local'); registry.load('simulator')\n"
        "assert {'local', 'simulator'} <= set(registry.names())\n"
        "heavy = {'asyncssh', 'boto3', 'openstack'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there_and_nothing_else_is_promised() -> None:
    for name in pileus.__all__:
        assert getattr(pileus, name) is not None
    assert pileus.__all__ == sorted(pileus.__all__)
    with pytest.raises(AttributeError):
        _ = pileus.no_such_name
    public_errors = {
        name for name, value in vars(pileus.errors).items() if isinstance(value, type) and issubclass(value, Exception)
    }
    assert public_errors <= set(pileus.__all__)


async def test_every_error_of_the_api_says_where_it_happened(tmp_path: Path) -> None:
    from pileus.testing.simulator import simulated_cloud

    with simulated_cloud("naming"):
        async with pileus.AsyncProvider("simulator", "lab", tmp_path / "s", settings={"cloud": "naming"}) as provider:
            for call, operation in (
                (lambda: provider.cheapest_server_flavor(10**5, 1), "cheapest_server_flavor"),
                (lambda: provider.server_flavor("none"), "server_flavor"),
                (lambda: provider.spawn("", "", "none"), "spawn"),
                (lambda: provider.deploy(cidr="nonsense"), "deploy"),
            ):
                with pytest.raises(pileus.PileusError) as caught:
                    await call()
                assert (caught.value.provider, caught.value.operation) == ("simulator", operation)
