"""The blocking Provider on a simulated cloud: its servers' identity, callbacks, generators, interrupts, ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pileus import Provider, Resources, Server, SpawnError, UsageError
from pileus.drivers.base import ServerRecord
from pileus.testing import SimulatedCloud, rules, simulated_cloud


@dataclass
class Lab:
    """A simulated cloud, and Providers of one deployment on it."""

    cloud: SimulatedCloud
    name: str
    place: Path

    def provider(self) -> Provider:
        return Provider(
            "simulator", "lab", self.place / "state", settings={"cloud": self.name, "poll_interval_s": "0.01"}
        )

    def servers(self) -> list[ServerRecord]:
        return [thing for thing in self.cloud.everything() if isinstance(thing, ServerRecord)]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    name = uuid.uuid4().hex
    with simulated_cloud(name, boot_s=0.0, delete_s=0.0) as cloud:
        yield Lab(cloud, name, tmp_path)


@pytest.fixture
def provider(lab: Lab) -> Iterator[Provider]:
    with lab.provider() as provider:
        provider.deploy()
        yield provider
        if not provider._closed:
            lab.cloud.clear_rules()
            provider.tear_down()


@pytest.fixture
def flavor(provider: Provider) -> str:
    return provider.flavors()[0].id


def test_a_server_is_one_object_wherever_it_comes_from(provider: Provider, flavor: str) -> None:
    server = provider.spawn("", "", flavor, external_ip=True)

    assert isinstance(server, Server)
    assert provider.servers()[server.id] is server
    assert provider.server_by_name(server.name) is server
    assert provider.head_node is server
    assert provider.resources.servers[server.id] is server
    assert server.provider is provider


def test_resources_hold_blocking_servers(provider: Provider, flavor: str) -> None:
    server = provider.spawn("", "", flavor, external_ip=True)

    resources = provider.resources

    assert isinstance(resources, Resources)
    assert resources.resource_name == "lab"
    assert set(resources.details) == {"keypair", "firewall", "network"}
    assert "PRIVATE KEY" in resources.private_key
    assert "PRIVATE KEY" not in repr(resources)
    assert dict(resources.servers) == {server.id: server}


def test_a_server_that_nobody_holds_is_not_kept_alive(provider: Provider, flavor: str) -> None:
    held = weakref.ref(provider.spawn("", "", flavor))
    gc.collect()
    assert held() is None


def test_using_quota_is_told_in_the_callers_thread_before_spawn_returns(provider: Provider, flavor: str) -> None:
    told: list[threading.Thread] = []
    provider.spawn("", "", flavor, on_using_quota=lambda: told.append(threading.current_thread()))
    assert told == [threading.current_thread()]


def test_spawn_many_hands_over_each_server_and_calls_back_for_each(provider: Provider, flavor: str) -> None:
    told: list[int] = []
    servers = list(provider.spawn_many(3, "", "", flavor, on_using_quota=lambda: told.append(1)))

    assert len({server.id for server in servers}) == 3
    assert len(told) == 3
    assert provider.servers(all=True) == {server.id: server for server in servers}


def test_spawn_many_begins_nothing_before_the_first_server_is_asked_for(
    provider: Provider, lab: Lab, flavor: str
) -> None:
    provider.spawn_many(3, "", "", flavor)
    assert lab.servers() == []


def leave_by_break(servers: Iterator[Server]) -> None:
    for _ in servers:
        break


def leave_by_error(servers: Iterator[Server]) -> None:
    with contextlib.suppress(LookupError):
        for _ in servers:
            raise LookupError


def leave_by_close(servers: Iterator[Server]) -> None:
    next(servers)
    servers.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_error, leave_by_close])
def test_leaving_spawn_many_destroys_what_was_not_handed_over(
    provider: Provider, lab: Lab, flavor: str, leave: Callable[[Iterator[Server]], None]
) -> None:
    lab.cloud.add_rules(rules.StuckBuilding(operation="create_server", nth=2))

    leave(provider.spawn_many(3, "", "", flavor))

    assert len(provider.servers(all=True)) == 1
    assert [server.id for server in lab.servers()] == list(provider.servers(all=True))


async def test_a_spawn_many_collected_in_an_event_loop_is_cleaned_up_without_blocking_it(lab: Lab) -> None:
    def begin() -> tuple[Provider, Iterator[Server]]:
        provider = lab.provider()
        provider.deploy()
        servers = provider.spawn_many(3, "", "", provider.flavors()[0].id)
        next(servers)
        return provider, servers

    provider, servers = await asyncio.to_thread(begin)
    del servers
    while len(lab.servers()) != 1:
        await asyncio.sleep(0.01)
    await asyncio.to_thread(provider.tear_down)
    await asyncio.to_thread(provider.close)


def test_servers_that_arrived_are_blocking_ones_in_a_spawn_error_too(provider: Provider, lab: Lab, flavor: str) -> None:
    lab.cloud.add_rules(rules.EndInError(operation="create_server", nth=2, after_s=0.0))
    arrived = []

    with pytest.raises(SpawnError) as caught:
        arrived.extend(provider.spawn_many(3, "", "", flavor))

    del arrived
    assert len(caught.value.servers) == 2
    assert all(isinstance(server, Server) for server in caught.value.servers)


def interrupt_when(condition: Callable[[], bool]) -> threading.Thread:
    """Send this process a Ctrl-C as soon as the condition holds."""

    def watch() -> None:
        while not condition():
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_an_interrupted_spawn_leaves_no_server(provider: Provider, lab: Lab, flavor: str) -> None:
    lab.cloud.add_rules(rules.StuckBuilding(operation="create_server"))
    thread = interrupt_when(lambda: bool(lab.servers()))

    with pytest.raises(KeyboardInterrupt):
        provider.spawn("", "", flavor)

    thread.join()
    assert lab.servers() == []
    assert provider.servers(all=True) == {}


def test_an_interrupted_spawn_many_leaves_what_was_handed_over_only(provider: Provider, lab: Lab, flavor: str) -> None:
    lab.cloud.add_rules(rules.StuckBuilding(operation="create_server", nth=2))
    kept: list[Server] = []

    def take_all() -> None:
        for server in provider.spawn_many(3, "", "", flavor):
            kept.append(server)

    thread = interrupt_when(lambda: len(kept) == 2)
    with pytest.raises(KeyboardInterrupt):
        take_all()

    thread.join()
    assert {server.id for server in lab.servers()} == {server.id for server in kept}


def test_an_error_in_using_quota_leaves_no_server(provider: Provider, lab: Lab, flavor: str) -> None:
    def complain() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        provider.spawn("", "", flavor, on_using_quota=complain)
    assert lab.servers() == []


def test_several_threads_may_call_at_once(provider: Provider, flavor: str) -> None:
    spawned: list[Server] = []
    threads = [threading.Thread(target=lambda: spawned.append(provider.spawn("", "", flavor))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert provider.servers(all=True) == {server.id: server for server in spawned}


def test_a_closed_provider_refuses_every_call(lab: Lab) -> None:
    with lab.provider() as provider:
        provider.deploy()
        server = provider.spawn("", "", provider.flavors()[0].id)
        provider.tear_down()
    provider.close()

    for call in (provider.quota, provider.deploy, provider.__enter__, lambda: server.run_cmd("true"), server.destroy):
        with pytest.raises(UsageError, match="closed"):
            call()
    with pytest.raises(UsageError, match="closed"):
        list(provider.spawn_many(1, "", "", "x"))
    assert provider.name == "simulator"


async def test_calls_from_an_event_loop_name_the_async_form(lab: Lab) -> None:
    provider = lab.provider()
    with pytest.raises(UsageError, match=r"await AsyncProvider\.quota"):
        provider.quota()
    with pytest.raises(UsageError, match=r"await AsyncProvider\.spawn_many"):
        list(provider.spawn_many(1, "", "", "x"))
    with pytest.raises(UsageError, match=r"await AsyncProvider\.close"):
        provider.close()
    await asyncio.to_thread(provider.close)


def test_a_provider_that_nobody_holds_is_closed(lab: Lab) -> None:
    provider = lab.provider()
    provider.deploy()
    closed = provider._provider
    provider.tear_down()
    del provider
    gc.collect()
    with lab.provider() as other:  # the loop has come round once
        other.quota()
    assert closed._closed


def test_closing_destroys_nothing_and_another_provider_finds_it(lab: Lab) -> None:
    with lab.provider() as provider:
        provider.deploy()
        spawned = provider.spawn("", "", provider.flavors()[0].id).id
        key = provider.private_key
    with lab.provider() as again:
        assert list(again.servers(all=True)) == [spawned]
        assert again.private_key == key
        again.tear_down()


def test_html_and_repr_tell_of_the_blocking_form_without_asking_the_cloud(
    provider: Provider, lab: Lab, flavor: str
) -> None:
    server = provider.spawn("", "", flavor)
    lab.cloud.forget_calls()

    assert repr(provider).startswith("<Provider simulator 'lab'")
    assert repr(server).startswith(f"<Server {server.name}")
    assert server.name in provider._repr_html_()
    assert server.name in server._repr_html_()
    assert lab.cloud.calls == []
