"""Typed uses of the public API that a type checker must accept, with the types that they must have. Not run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import assert_type

import asyncssh

from pileus import (
    AsyncProvider,
    AsyncServer,
    CommandError,
    CommandResult,
    DeployConfig,
    Flavor,
    Image,
    PileusError,
    Provider,
    Quota,
    Resources,
    Server,
    SpawnError,
    TearDownError,
    all_env,
    maybe_env,
    required_env,
)
from pileus.blocking import SSHClient


def blocking(place: Path) -> None:
    with Provider("local", "lab", place, settings={"overcommit": "2"}, busy_timeout=timedelta(seconds=5)) as provider:
        assert_type(provider, Provider)
        assert_type(provider.deploy(DeployConfig(required_ports=(22,))), None)
        provider.deploy(required_ports=(22, 443))
        assert_type(provider.quota(), Quota)
        assert_type(provider.flavors(), list[Flavor])
        assert_type(provider.images(), list[Image])
        flavor = provider.cheapest_server_flavor(0.5, 100)
        assert_type(provider.cheapest_server_flavors(1, 100, "", [["a", "b"], ["c"]]), list[Flavor])
        server = provider.spawn("", "", flavor, 10, timedelta(minutes=5), True, lambda: None, timeout=60)
        assert_type(server, Server)
        assert_type(provider.spawn_many(3, "", "", "local-1"), Iterator[Server])
        assert_type(provider.servers(all=True), dict[str, Server])
        assert_type(provider.server_by_name("x"), Server | None)
        assert_type(provider.head_node, Server | None)
        assert_type(provider.resources, Resources[Server])
        assert_type(provider.private_key, str)
        assert_type(provider.in_cloud, bool)
        uses(server, place)
        provider.tear_down()


def uses(server: Server, place: Path) -> None:
    server.wait_until_ready("~/.netrc", b"#!/bin/sh\ntrue", timeout=60)
    result = server.run_cmd("true", on_stdout=lambda piece: None)
    assert_type(result, CommandResult)
    stdout, stderr = result
    assert_type(stdout, str)
    assert_type(stderr, str)
    assert_type(result.exit_status, int | None)
    server.upload_file(place, "x", progress=lambda done, total: None)
    server.download_file("x", place)
    server.create_file("text", "y")
    server.create_file(b"bytes", "y")
    assert_type(server.allocate(0.5, 100, 0), bool)
    assert_type(server.has_space_for(0.5, 100, 0), int)
    assert_type(server.ttd, float)
    assert_type(server.created, datetime)
    assert_type(server.provider, Provider)
    client = server.ssh_client()
    assert_type(client, SSHClient)
    assert_type(client.run("true"), CommandResult)
    assert_type(client.call(client.connection.is_closed), bool)
    assert_type(server.ssh_session(), AbstractContextManager[SSHClient])


async def asynchronous() -> None:
    async with AsyncProvider("local", "lab") as provider:
        assert_type(provider, AsyncProvider)
        await provider.deploy()
        server = await provider.spawn("", "", await provider.cheapest_server_flavor(1, 100))
        assert_type(server, AsyncServer)
        assert_type(provider.spawn_many(3, "", "", "local-1"), AsyncIterator[AsyncServer])
        assert_type(await provider.servers(), dict[str, AsyncServer])
        assert_type(provider.resources, Resources[AsyncServer])
        assert_type(await server.run_cmd("true", check=False), CommandResult)
        assert_type(await server.ssh_client(), asyncssh.SSHClientConnection)
        await provider.tear_down()


def errors(provider: Provider) -> None:
    try:
        provider.tear_down()
    except TearDownError as error:
        assert_type(error.leftovers, tuple[str, ...])
    except SpawnError as error:
        assert_type(error.provider, str)
    except CommandError as error:
        assert_type(error.result, CommandResult)
    except PileusError as error:
        assert_type(error.hint, str)


def environment() -> None:
    assert_type(required_env("openstack"), list[str])
    assert_type(maybe_env("openstack"), list[str])
    assert_type(all_env("openstack"), list[str])
