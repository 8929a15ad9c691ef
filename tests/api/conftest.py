"""Deployments on the `local` provider, in both forms; at the end nothing of them is left, in the kernel or on disk."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pileus.drivers.base import Call
from pileus.drivers.local import LocalDriver

from .forms import AsyncForm, BlockingForm


@pytest.fixture(params=[AsyncForm, BlockingForm], ids=["async", "blocking"])
def form(request: pytest.FixtureRequest) -> Iterator[Any]:
    form = request.param()
    yield form
    form.end()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, state and data directory of the test's own."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv(
        "PILEUS_LOCAL_OVERCOMMIT", "1000"
    )  # the quota is the user's: others' servers must not be in our way
    for variable in ("XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    return home


class Deployments:
    """Makes providers, and closes them."""

    def __init__(self, form: Any, save_path: Path) -> None:
        # One of its own: tests that run beside this one would adopt what carries the same name and has no state.
        self.name = f"table-{secrets.token_hex(3)}"
        self.form = form
        self.save_path = save_path
        self.made: list[Any] = []

    def make(self, other_name: str = "", **more: Any) -> Any:
        provider = self.form.provider_class("local", other_name or self.name, self.save_path, **more)
        self.made.append(provider)
        return provider


@pytest.fixture
def deployments(form: Any, home: Path) -> Iterator[Deployments]:
    deployments = Deployments(form, home / "state")
    yield deployments
    for provider in deployments.made:
        form.close(provider)


@pytest.fixture
def provider(deployments: Deployments, form: Any) -> Iterator[Any]:
    provider = deployments.make()
    form(provider.deploy())
    deployment_id = provider.deployment_id
    yield provider
    form(provider.tear_down())
    driver = LocalDriver({})
    call = Call("leak-check", __import__("time").monotonic() + 30)
    assert [record for record in driver.list_servers(None, call) if record.deployment_id == deployment_id] == []
    driver.close()


@pytest.fixture
def server(provider: Any, form: Any) -> Any:
    """A ready server with all that `local` has of one core."""
    flavor = form(provider.cheapest_server_flavor(1, 512))
    server = form(provider.spawn("", "", flavor, external_ip=True))
    form(server.wait_until_ready())
    return server
