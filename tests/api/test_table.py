"""Every row of the API table, on the `local` provider, in the async and in the blocking form."""

from __future__ import annotations

import datetime
import os
import shlex
import time
from pathlib import Path
from typing import Any

import pytest

import pileus
from pileus import (
    BadCIDRError,
    BadFlavorError,
    BadProviderError,
    BadRegexError,
    BadResourceNameError,
    CommandError,
    CommandResult,
    ConfigError,
    DeployConfig,
    Flavor,
    NoFlavorError,
    NoHardwareError,
    NoImageError,
    NotFoundError,
    Quota,
    ServerFailedError,
    ServerGoneError,
    TransferError,
    UnsupportedError,
    UsageError,
)

from .conftest import Deployments


def out(form: Any, server: Any, command: str) -> str:
    return str(form(server.run_cmd(command)).stdout)


# --- Provider(…), required_env, maybe_env, all_env ---


def test_a_provider_is_made_by_name_and_refuses_what_it_cannot_use(form: Any, home: Path) -> None:
    for bad in ("", "a/b", "a\nb", "ü", "x" * 60, "$(id)"):
        with pytest.raises(BadResourceNameError):
            form.provider_class("local", bad, home / "state")
    with pytest.raises(BadProviderError, match="local"):
        form.provider_class("no-such-cloud", "lab", home / "state")
    assert list(home.iterdir()) == []


def test_the_environment_that_a_provider_needs_is_listed() -> None:
    assert pileus.required_env("local") == []
    assert pileus.all_env("local") == pileus.required_env("local") + pileus.maybe_env("local")
    with pytest.raises(BadProviderError):
        pileus.required_env("no-such-cloud")


def test_a_provider_is_a_context_manager_whose_end_destroys_nothing(
    deployments: Deployments, provider: Any, server: Any, form: Any
) -> None:
    second = deployments.make()
    with form.within(second) as inner:
        assert inner is second
    with pytest.raises(UsageError, match="closed"):
        form(second.servers())
    assert form(server.alive(check_ssh=True))


# --- deploy, resources, private_key, in_cloud, quota ---


def test_deploy_takes_a_config_or_its_fields_and_refuses_nonsense(deployments: Deployments, form: Any) -> None:
    provider = deployments.make(f"{deployments.name}-deploy")
    with pytest.raises(BadCIDRError):
        form(provider.deploy(cidr="10.0.0.1/8"))
    with pytest.raises(ConfigError, match="not both"):
        form(provider.deploy(DeployConfig(), cidr="10.0.0.0/8"))
    assert provider.deployment_id == ""
    form(provider.deploy(required_ports=(22, 80), gateway_ip="192.168.0.1", use_config_drive=False))
    assert provider.deployed
    form(provider.deploy(DeployConfig()))
    form(provider.tear_down())


def test_key_and_servers_are_found_again_by_a_later_process_with_the_same_arguments(
    deployments: Deployments, provider: Any, server: Any, form: Any
) -> None:
    later = deployments.make()
    assert later.private_key == provider.private_key
    assert "OPENSSH PRIVATE KEY" in later.private_key
    found = form(later.servers())[server.id]
    assert (found.name, found.ip, found.ssh_port, found.user_name) == (
        server.name,
        server.ip,
        server.ssh_port,
        server.user_name,
    )
    assert out(form, found, "echo again") == "again\n"
    assert later.head_node is not None
    assert later.head_node.id == server.id


def test_resources_tell_name_key_and_servers_without_showing_the_key(provider: Any, server: Any) -> None:
    resources = provider.resources
    assert resources.resource_name == provider.resource_name
    assert resources.private_key == provider.private_key
    assert list(resources.servers) == [server.id]
    assert "PRIVATE" not in repr(resources)


def test_in_cloud_is_false_on_a_machine_that_is_no_server(provider: Any) -> None:
    assert provider.in_cloud is False


def test_quota_counts_what_servers_take(provider: Any, form: Any) -> None:
    before = form(provider.quota())
    assert isinstance(before, Quota)
    assert before.max_cores > 0
    flavor = form(provider.cheapest_server_flavor(1, 1))
    server = form(provider.spawn("", "", flavor, disk_gb=3))
    after = form(provider.quota())
    assert after.used_cores >= flavor.cores
    assert after.used_instances >= 1
    form(server.destroy())


# --- flavors and images ---


def test_the_cheapest_flavor_is_the_smallest_that_fits(provider: Any, form: Any) -> None:
    flavors = form(provider.flavors())
    smallest = min(flavors, key=lambda flavor: (flavor.cores, flavor.ram))
    assert form(provider.cheapest_server_flavor(0.5, 1)) == smallest
    assert form(provider.cheapest_server_flavor(1, 1, smallest.name)) == smallest
    with pytest.raises(NoFlavorError):
        form(provider.cheapest_server_flavor(10**5, 1))
    with pytest.raises(NoFlavorError):
        form(provider.cheapest_server_flavor(1, 1, "no such name"))
    with pytest.raises(BadRegexError):
        form(provider.cheapest_server_flavor(1, 1, "("))
    for bad in ((-1, 1), (1, -1), (float("nan"), 1)):
        with pytest.raises(ConfigError):
            form(provider.cheapest_server_flavor(*bad))


def test_flavors_of_sets_come_in_the_order_that_is_best_overall(provider: Any, form: Any) -> None:
    flavors = sorted(form(provider.flavors()), key=lambda flavor: flavor.cores)
    sets = [[f"^{flavor.name}$"] for flavor in reversed(flavors)]
    assert form(provider.cheapest_server_flavors(1, 1, "", sets)) == flavors[: len(sets)]


def test_a_flavor_is_found_by_id_or_name(provider: Any, form: Any) -> None:
    for flavor in form(provider.flavors()):
        assert form(provider.server_flavor(flavor.id)) == flavor
        assert form(provider.server_flavor(flavor.name)) == flavor
    with pytest.raises(BadFlavorError):
        form(provider.server_flavor("no-such-flavor"))


def test_images_are_found_by_id_name_or_prefix(provider: Any, form: Any) -> None:
    images = form(provider.images())
    assert images
    image = images[0]
    flavor = form(provider.cheapest_server_flavor(1, 1))
    for os_ in ("", image.id, image.name, image.name[:4]):
        server = form(provider.spawn(os_, "", flavor))
        assert server.os == os_
        assert server.user_name == image.default_user
        form(server.destroy())
    with pytest.raises(NoImageError) as caught:
        form(provider.spawn("Windows 95", "", flavor))
    assert image.name in str(caught.value)


# --- spawn and what it gives ---


def test_spawn_gives_a_server_with_everything_that_the_document_has(provider: Any, form: Any) -> None:
    told: list[str] = []
    flavor = form(provider.cheapest_server_flavor(1, 512))
    server = form(
        provider.spawn("", "somebody", flavor.id, 7, datetime.timedelta(minutes=2), True, lambda: told.append("quota"))
    )
    assert told == ["quota"]
    assert isinstance(server.flavor, Flavor)
    assert server.flavor == flavor
    assert server.disk >= 7
    assert server.ttd == 120.0
    assert server.is_head_node
    assert server.user_name == "somebody"
    assert server.name.startswith(provider.resource_name + "-")
    assert server.ip == "127.0.0.1"
    assert server.ssh_port > 1024
    assert server.admin_pass == ""
    assert (server.script, server.config_files, server.destroyed, server.is_bad) == (b"", "", False, False)
    form(server.wait_until_ready())
    assert out(form, server, "hostname").strip() in (server.name, os.uname().nodename)
    second = form(provider.spawn("", "", flavor, external_ip=False))
    assert not second.is_head_node
    assert set(form(provider.servers())) == {server.id}
    assert set(form(provider.servers(all=True))) == {server.id, second.id}
    assert form(provider.server_by_name(second.name)) is second
    assert form(provider.server_by_name("nobody")) is None
    assert form(provider.check_server(server.id))
    form(provider.destroy_server(second.id))
    assert second.destroyed
    assert not form(provider.check_server(second.id))
    with pytest.raises(NotFoundError):
        form(provider.destroy_server("no such server"))


def test_many_servers_are_handed_over_one_by_one(provider: Any, form: Any) -> None:
    flavor = form(provider.cheapest_server_flavor(1, 1))
    seen = []
    for server in form.each(provider.spawn_many(3, "", "", flavor)):
        form(server.wait_until_ready())
        seen.append(server.id)
    assert len(set(seen)) == 3
    assert set(form(provider.servers(all=True))) == set(seen)


def test_leaving_the_loop_early_keeps_only_what_was_handed_over(provider: Any, form: Any) -> None:
    flavor = form(provider.cheapest_server_flavor(1, 1))
    for server in form.each(provider.spawn_many(3, "", "", flavor)):  # noqa: B007  (used below)
        break
    for _ in range(100):
        if set(form(provider.servers(all=True))) == {server.id}:
            break
        form.sleep(0.05)
    assert set(form(provider.servers(all=True))) == {server.id}


def test_no_hardware_is_told_from_other_errors(provider: Any) -> None:
    assert provider.is_no_hardware(NoHardwareError("none"))
    assert not provider.is_no_hardware(NoFlavorError("none"))


# --- wait_until_ready, files and the script ---


def test_files_are_copied_before_the_script_runs(provider: Any, form: Any, home: Path) -> None:
    (home / ".s3cfg").write_text("secret=1\n")
    flavor = form(provider.cheapest_server_flavor(1, 1))
    server = form(provider.spawn("", "", flavor))
    form(server.wait_until_ready("~/.s3cfg,~/.no-such-file", b"#!/bin/sh\ncp ~/.s3cfg ~/seen-by-script\n"))
    assert out(form, server, "cat seen-by-script") == "secret=1\n"
    assert server.config_files == "~/.s3cfg,~/.no-such-file"
    assert server.script.startswith(b"#!/bin/sh")
    assert server.matches("", server.script, server.config_files, flavor, False)
    assert server.matches("", server.script, server.config_files)
    assert not server.matches("", b"other", server.config_files, flavor, False)
    assert not server.matches("Debian", server.script, server.config_files)
    assert not server.matches("", server.script, server.config_files, flavor, shared_disk=True)


def test_a_script_that_fails_is_an_error_with_its_stderr(provider: Any, form: Any) -> None:
    server = form(provider.spawn("", "", form(provider.cheapest_server_flavor(1, 1))))
    with pytest.raises(ServerFailedError, match="no such package") as caught:
        form(server.wait_until_ready("", b"#!/bin/sh\necho no such package >&2; exit 7\n"))
    assert "exit status 7" in str(caught.value)
    assert form(server.alive(check_ssh=True))


# --- run_cmd ---


def test_a_command_gives_its_output_and_its_status(server: Any, form: Any) -> None:
    result = form(server.run_cmd("echo out; echo err >&2"))
    assert isinstance(result, CommandResult)
    stdout, stderr = result
    assert (stdout, stderr, result.exit_status) == ("out\n", "err\n", 0)
    with pytest.raises(CommandError) as caught:
        form(server.run_cmd("echo why >&2; exit 3"))
    assert caught.value.result.exit_status == 3
    assert "why" in str(caught.value)
    assert form(server.run_cmd("exit 4", check=False)).exit_status == 4
    killed = form(server.run_cmd("kill -9 $$", check=False))
    assert killed.exit_status != 0
    pieces: list[bytes] = []
    form(server.run_cmd("cat; echo $WORD", stdin=b"in ", env={"WORD": "it's"}, on_stdout=pieces.append))
    assert b"".join(pieces) == b"in it's\n"
    began = time.monotonic()
    with pytest.raises(CommandError, match="tim"):
        form(server.run_cmd("sleep 60", timeout=0.5))
    assert time.monotonic() - began < 30


def test_a_command_in_the_background_outlives_its_connection(server: Any, form: Any) -> None:
    result = form(server.run_cmd("sleep 0.5; echo done > later", background=True))
    assert result.job_id
    for _ in range(100):
        if form(server.run_cmd("cat later", check=False)).stdout == "done\n":
            break
        form.sleep(0.1)
    assert out(form, server, "cat later") == "done\n"


# --- files ---


def test_files_go_up_and_down_whatever_they_are_called(server: Any, form: Any, tmp_path: Path) -> None:
    odd = 'it\'s a "file" with\nnewline, ünïcode and $(spaces) '
    source = tmp_path / odd
    source.write_bytes(os.urandom(100_000))
    form(server.upload_file(source, f"deep/er/{odd}"))
    assert out(form, server, f"wc -c < {shlex.quote('deep/er/' + odd)}").strip() == "100000"
    form(server.download_file(f"deep/er/{odd}", tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    with pytest.raises(TransferError):
        form(server.download_file("no such file", tmp_path / "x"))
    assert not (tmp_path / "x").exists()
    with pytest.raises((TransferError, ConfigError)):
        form(server.download_file(f"deep/er/{odd}", tmp_path / "no" / "such" / "directory"))


def test_a_file_is_made_with_its_directories(server: Any, form: Any) -> None:
    form(server.create_file("hällo\n", "a/b/c.txt"))
    assert out(form, server, "cat a/b/c.txt") == "hällo\n"
    form(server.mkdir("x/y/z"))
    form(server.mkdir("x/y/z"))
    assert out(form, server, "test -d x/y/z && echo yes") == "yes\n"


def test_home_and_time_zone_are_told(server: Any, form: Any) -> None:
    home = form(server.home_dir())
    assert home.startswith("/")
    assert out(form, server, "pwd").strip() == home
    zone = form(server.time_zone())
    assert zone.tzname(None) == "SER"
    here = datetime.datetime.now().astimezone().utcoffset()
    assert zone.utcoffset(None) == here


def test_copy_over_keeps_mtimes_and_skips_what_is_missing(server: Any, form: Any, home: Path, tmp_path: Path) -> None:
    (home / ".tool").mkdir()
    (home / ".tool" / "config").write_text("one\n")
    os.utime(home / ".tool" / "config", (1_500_000_000, 1_500_000_000))
    absolute = tmp_path / "absolute.txt"
    absolute.write_text("two\n")
    form(server.copy_over(f"~/.tool/config,~/.missing,{absolute}:renamed.txt,/no/such/file"))
    assert out(form, server, "cat .tool/config; stat -c %Y .tool/config") == "one\n1500000000\n"
    assert out(form, server, "cat renamed.txt") == "two\n"


# --- room ---


def test_room_is_allocated_exactly_and_never_over(server: Any, form: Any) -> None:
    cores = server.flavor.cores
    for _ in range(10 * cores):
        assert form(server.allocate(0.1, 1, 0))
    assert not form(server.allocate(0.1, 1, 0))
    assert form(server.has_space_for(0.1, 1, 0)) == 0
    assert form(server.allocate(0, 1, 0))
    assert form(server.release(0, 1, 0))
    for _ in range(10 * cores):
        assert form(server.release(0.1, 1, 0))
    assert not form(server.release(0.1, 1, 0))
    assert form(server.has_space_for(1, 1, 0)) == cores
    assert form(server.has_space_for(0, server.flavor.ram // 4, 0)) == 4
    for bad in ((-1, 0, 0), (0, -1, 0), (0, 0, -1), (float("inf"), 0, 0)):
        with pytest.raises(ConfigError):
            form(server.allocate(*bad))


# --- idleness ---


def test_the_idle_clock_starts_at_the_last_release_or_the_end_of_the_last_command(provider: Any, form: Any) -> None:
    flavor = form(provider.cheapest_server_flavor(1, 1))
    server = form(provider.spawn("", "", flavor, ttd=1.5))
    form(server.wait_until_ready())
    form(server.run_cmd("sleep 2.5"))
    assert not server.destroyed
    assert form(server.allocate(0.5, 1, 0))
    form.sleep(2.5)
    assert not server.destroyed
    assert form(server.release(0.5, 1, 0))
    for _ in range(300):
        if server.destroyed and not form(provider.servers(all=True)):
            break
        form.sleep(0.05)
    assert server.destroyed
    with pytest.raises(ServerGoneError):
        form(server.run_cmd("true"))


def test_an_open_session_keeps_a_server_from_being_idle(provider: Any, form: Any) -> None:
    flavor = form(provider.cheapest_server_flavor(1, 1))
    server = form(provider.spawn("", "", flavor, ttd=1))
    form(server.wait_until_ready())
    with form.within(server.ssh_session()):
        form.sleep(2.5)
        assert not server.destroyed
    form(server.destroy())


# --- health ---


def test_alive_destroyed_and_bad(server: Any, form: Any) -> None:
    assert form(server.alive())
    assert form(server.alive(check_ssh=True))
    form(server.gone_bad())
    assert server.is_bad
    assert form(server.not_bad())
    assert not server.is_bad
    form(server.gone_bad("its disk is full"))
    assert server.permanent_problem == "its disk is full"
    assert not form(server.not_bad())
    form(server.destroy())
    form(server.destroy())
    assert server.destroyed
    assert not form(server.alive())
    assert not form(server.not_bad())


def test_ssh_clients_and_sessions_can_be_had(server: Any, form: Any) -> None:
    assert form(server.ssh_client()) is not None
    with form.within(server.ssh_session()) as session:
        done = form(session.run("echo by hand"))
        assert "by hand" in str(done.stdout)


def test_a_shared_disk_is_refused_where_there_is_none(server: Any, form: Any) -> None:
    for refused in (lambda: server.create_shared_disk(), lambda: server.mount_shared_disk("127.0.0.1")):
        with pytest.raises(UnsupportedError, match="local"):
            form(refused())


# --- localhost ---


def test_this_machine_is_a_server_too(provider: Any, form: Any, home: Path, tmp_path: Path) -> None:
    server = form(provider.localhost_server("linux", b"script", "~/.cfg", "127.0.0.0/8"))
    assert server.ip.startswith("127.")
    assert server.matches("linux", b"script", "~/.cfg")
    assert form(server.run_cmd("echo here; pwd")).stdout == f"here\n{home}\n"
    with pytest.raises(CommandError):
        form(server.run_cmd("exit 2"))
    form(server.create_file("x", "made/here.txt"))
    assert (home / "made" / "here.txt").read_text() == "x"
    form(server.upload_file(home / "made", "copied"))
    form(server.download_file("copied/here.txt", tmp_path / "back.txt"))
    assert (tmp_path / "back.txt").read_text() == "x"
    assert form(server.home_dir()) == str(home)
    assert form(server.has_space_for(1, 1, 0)) >= 1
    assert form(server.allocate(server.flavor.cores, 1, 0))
    assert form(server.has_space_for(1, 1, 0)) == 0
    assert form(server.release(server.flavor.cores, 1, 0))
    assert form(server.alive())
    with pytest.raises(UsageError):
        form(server.destroy())
    with pytest.raises(BadCIDRError):
        form(provider.localhost_server("linux", cidr="203.0.113.0/24"))
    assert form(provider.servers(all=True)) == {}


# --- tear_down, audit, check, find_or_spawn ---


def test_tear_down_ends_everything_and_may_be_repeated(deployments: Deployments, form: Any) -> None:
    provider = deployments.make(f"{deployments.name}-torn")
    form(provider.tear_down())
    form(provider.deploy())
    flavor = form(provider.cheapest_server_flavor(1, 1))
    servers = list(form.each(provider.spawn_many(2, "", "", flavor)))
    form(provider.tear_down())
    assert all(server.destroyed for server in servers)
    assert provider.private_key == ""
    assert not provider.private_key_path.exists()
    assert form(provider.audit()) == []
    form(provider.tear_down())


def test_audit_and_check_tell_what_is_there(provider: Any, server: Any, form: Any) -> None:
    [item] = [item for item in form(provider.audit()) if item.id == server.id]
    assert item.ours
    assert item.known
    assert item.status == "active"
    assert all(item.ok for item in form(provider.check()))


def test_a_server_with_room_is_found_before_another_is_spawned(provider: Any, form: Any) -> None:
    first = form(provider.find_or_spawn(0.5, 100))
    second = form(provider.find_or_spawn(0.5, 100))
    assert second is first
    third = form(provider.find_or_spawn(1, 100))
    assert third is not first
    usage = form(provider.usage())
    assert usage[first.id].cores == 1.0
    assert usage[first.id].busy
