from __future__ import annotations

import json
import os
import pty
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pileus.cli import app, local_view
from pileus.cli.listing import COLUMNS
from pileus.cli.local_view import View
from pileus.errors import ConfigError
from pileus.state import Deployment, Intent, ServerRow, Settled, Store, Usage, boot_id, key_path, state_path

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1Yl5DNXfDqN7h2Zr0C2l9Z1m8q3xw0v0iZl3c5o0aB"
SECRET = "correct horse"
Command = Callable[..., "subprocess.CompletedProcess[bytes]"]


def row(number: int, **more: object) -> ServerRow:
    facts: dict[str, object] = {
        "id": f"{number:08x}-aaaa-bbbb-cccc-ddddeeeeffff",
        "intent_id": f"i-{number:016x}",
        "name": f"lab-{number:012x}",
        "user_name": "user",
        "flavor": {"id": "1", "name": "m1.small", "cores": 2, "ram": 4096, "disk": 20},
        "disk_gb": 20,
        "ip": "127.0.0.1",
        "ssh_port": 2000 + number % 1000,
        "host_keys": (KEY,),
        "admin_pass": SECRET,
        "created": 1000.0 + number,
        "status": "ready",
    }
    return ServerRow(**{**facts, **more})  # type: ignore[arg-type]


def fill(rows: list[ServerRow], name: str = "lab", provider: str = "local") -> Path:
    """A deployment with these servers, as the core would have recorded them."""
    path = state_path(provider, name)
    with Store.open(path, provider=provider, resource_name=name) as store:
        store.save_deployment(
            Deployment("d-1", provider, name, created=1.0, status="deployed", public_key=KEY, private_key=SECRET)
        )
        store.record_intents([Intent(row.intent_id, "server", row.name, payload={"admin": SECRET}) for row in rows])
        store.settle([Settled(row.intent_id, "done", row.id, server=row) for row in rows])
    return path


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, object]]:
    assert app.run(["list", "--name", "lab", "--json", *words]) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return found


def test_servers_are_listed_the_oldest_first_and_without_secrets(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill([row(2), row(1, bad=True, permanent_problem="disk"), row(3, status="spawned", ip="")])
    assert app.run(["list", "--name", "lab", "--json"]) == 0
    out = capsys.readouterr().out
    assert SECRET not in out
    servers = json.loads(out)
    assert [server["name"] for server in servers] == [row(n).name for n in (1, 2, 3)]
    assert [server["status"] for server in servers] == ["bad", "ready", "spawned"]
    assert servers[0]["problem"] == "disk"
    assert servers[1]["created"] == "1970-01-01T00:16:42+00:00"


def test_what_is_allocated_is_listed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fill([row(1), row(2)])
    with Store.open(path, provider="local", resource_name="lab") as store:
        session = store.begin_session()
        assert store.allocate(row(1).id, session, 500_000_000, 1024, 3)
        first, second = listed(capsys)
    assert (first["in_use"], first["allocated_cores"], first["allocated_ram_mb"]) == (True, 0.5, 1024)
    assert (second["in_use"], second["allocated_cores"]) == (False, 0)


def test_idleness_is_told_only_by_the_clock_that_measured_it() -> None:
    def idle(since: float | None, boot: str, usage: Usage | None = None) -> object:
        server = row(1, idle_since=since, boot_id=boot)
        return local_view.facts(server, usage, now=2000.0, monotonic=150.0, boot="this")["idle_s"]

    assert idle(100.0, "this") == 50.0
    assert idle(100.0, "an earlier one") is None
    assert idle(None, "this") is None
    assert idle(100.0, "this", Usage("x", allocations=1)) is None


def test_a_line_of_the_table_tells_what_a_person_asks() -> None:
    server = local_view.facts(
        row(1, ttd_s=600.0, idle_since=100.0, boot_id="b"), None, now=1301.0, monotonic=142.0, boot="b"
    )
    cells = local_view.cells(server)
    assert dict(zip([column.title for column in COLUMNS], cells, strict=True)) == {
        "NAME": "lab-000000000001",
        "ID": row(1).id,
        "STATUS": "ready",
        "ADDRESS": "127.0.0.1:2001",
        "FLAVOR": "m1.small",
        "ALLOC": "-",
        "IDLE/TTD": "42s/10m",
        "AGE": "5m",
    }
    used = local_view.facts(
        row(1, ip="::1"), Usage("x", 1_500_000_000, 2048, 0, 1), now=1301.0, monotonic=142.0, boot="b"
    )
    assert local_view.cells(used)[3:7] == ["[::1]:2001", "m1.small", "1.5/2, 2G", "in use/never"]


def test_where_nothing_is_deployed_the_list_is_empty_and_no_state_is_made(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert listed(capsys) == []
    assert app.run(["list", "--name", "lab"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no servers in lab on local" in captured.err
    assert not state_path("local", "lab").exists()


def test_deployments_whose_names_begin_alike_do_not_see_each_other(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill([row(1)], "lab-1")
    fill([row(2), row(3)], "lab-10")
    for name, count in (("lab-1", 1), ("lab-10", 2), ("lab", 0)):
        assert app.run(["list", "--name", name, "--json"]) == 0
        assert len(json.loads(capsys.readouterr().out)) == count


def test_a_provider_that_is_not_installed_is_an_error_not_an_empty_list(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["list", "--provider", "nope"]) == 2
    assert "local" in capsys.readouterr().err


def test_a_damaged_state_is_an_error_of_its_own_and_the_file_stays(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fill([row(1)])
    path.write_bytes(b"not a database, nor ever was one" * 100)
    assert app.run(["list", "--name", "lab"]) == 6
    assert str(path) in capsys.readouterr().err
    assert path.read_bytes().startswith(b"not a database")


def test_a_server_is_found_by_the_beginning_of_its_name_its_id_or_its_random_end() -> None:
    servers = [row(0x1A), row(0x1B), row(0x2C, name="lab-ffff00000000")]
    assert local_view.find(servers, servers[0].id) is servers[0]
    assert local_view.find(servers, servers[1].name) is servers[1]
    assert local_view.find(servers, "0000001b-") is servers[1]
    assert local_view.find(servers, "ffff") is servers[2]
    with pytest.raises(ConfigError, match="may mean lab-00000000001a, lab-00000000001b"):
        local_view.find(servers, "0000")
    for nothing in ("", "nope"):
        with pytest.raises(ConfigError, match="there is no server"):
            local_view.find(servers, nothing)


def test_a_name_is_not_confused_with_a_longer_one() -> None:
    servers = [row(1, name="lab-1"), row(2, name="lab-10")]
    assert local_view.find(servers, "lab-1") is servers[0]


def test_the_files_for_openssh_are_ours_alone_and_name_the_known_key(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fill([row(1), row(2, status="destroying"), row(3, ip="")], "my lab")
    assert app.run(["ssh-config", "--name", "my lab"]) == 0
    told = capsys.readouterr().out
    assert told.count("\nHost ") == 1
    assert f"HostKeyAlias {row(1).id}" in told
    known_hosts = path.with_name(path.name + ".known_hosts")
    assert known_hosts.read_text() == f"{row(1).id} {KEY}\n"
    assert stat.S_IMODE(known_hosts.stat().st_mode) == 0o600
    assert f'IdentityFile "{key_path(path)}"' in told
    assert {file.name for file in path.parent.iterdir() if "known" in file.name} == {known_hosts.name}


def test_one_host_can_be_asked_for(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill([row(1), row(2)])
    assert app.run(["ssh-config", "--name", "lab", row(2).name]) == 0
    assert capsys.readouterr().out.count("\nHost ") == 1
    assert app.run(["inventory", "--name", "lab", "--host", row(2).name]) == 0
    assert json.loads(capsys.readouterr().out)["ansible_port"] == 2002
    assert app.run(["inventory", "--name", "lab", "--host", "nope"]) == 2


def test_the_inventory_of_nothing_is_a_valid_one(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["inventory", "--list"]) == 0
    assert json.loads(capsys.readouterr().out) == {"_meta": {"hostvars": {}}}


def test_destroying_lists_what_it_would_touch_and_refuses_where_nobody_can_be_asked(
    pileus: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fill([row(1), row(2)])
    for words in (["destroy", row(1).name], ["destroy", "--all"]):
        told = pileus(*words, "--name", "lab")
        assert told.returncode == 2
        assert row(1).name.encode() in told.stderr
        assert b"--yes" in told.stderr
        assert told.stdout == b""
    with Store.open(path, provider="local", resource_name="lab") as store:
        assert {server.status for server in store.servers()} == {"ready"}


def test_destroying_asks_where_a_person_looks_and_no_means_no(home: Path) -> None:
    path = fill([row(1)])
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("pileus")), "destroy", "--all", "--name", "lab"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    said = b""
    with os.fdopen(ours, "rb+", buffering=0) as terminal:
        while b"[y/N]" not in said:
            said += terminal.read(1000)
        terminal.write(b"n\n")
        out, _ = process.communicate(timeout=30)
    assert row(1).name.encode() in said
    assert (process.returncode, out) == (1, b"")
    with Store.open(path, provider="local", resource_name="lab") as store:
        assert [server.status for server in store.servers()] == ["ready"]


def test_destroying_needs_a_name_or_all(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["destroy"]) == 2
    assert app.run(["destroy", "x", "--all"]) == 2
    assert "--all" in capsys.readouterr().err


def test_the_list_of_a_thousand_servers_needs_nothing_heavy(home: Path) -> None:
    fill([row(number) for number in range(1000)])
    program = (
        "import sys; from pileus.cli import app; status = app.run(['list', '--name', 'lab']);"
        "heavy = {'asyncio', 'asyncssh', 'rich', 'tomllib', 'pileus.provider', 'pileus.drivers.local'};"
        "heavy &= set(sys.modules);"
        "sys.exit(status or ' '.join(heavy) or 0)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)
    assert (told.returncode, told.stderr) == (0, "")
    assert len(told.stdout.splitlines()) == 1001


def test_the_shell_completes_names_of_servers(home: Path) -> None:
    fill([row(1)], settings_name := "lab")
    told = subprocess.run(
        [str(Path(sys.executable).with_name("pileus"))],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "_PILEUS_COMPLETE": "bash_complete",
            "COMP_WORDS": "pileus ssh lab-",
            "COMP_CWORD": "2",
            "PILEUS_NAME": settings_name,
        },
    )
    assert told.stdout.strip() == f"plain,{row(1).name}"


def test_a_view_of_now_uses_this_boots_clock() -> None:
    server = row(1, idle_since=time.monotonic() - 5, boot_id=boot_id())
    view = View(Path("x"), Deployment("d", "local", "lab"), (server,), {})
    assert 5 <= local_view.all_facts(view)[0]["idle_s"] < 100
