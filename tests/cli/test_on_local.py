"""The installed command against real servers of this machine: SSH, files, signals and all."""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pileus.cli import app, local_view, settings
from pileus.drivers.base import Call
from pileus.drivers.local import LocalDriver

from .conftest import PILEUS

Command = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def lab(pileus: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """The command on a deployment of its own, which is torn down at the end; nothing may be left of it."""
    trees = tmp_path / "trees"
    monkeypatch.setenv("PILEUS_LOCAL_DIR", str(trees))
    monkeypatch.setenv("PILEUS_LOCAL_HELPER_IDLE", "1")
    monkeypatch.setenv("PILEUS_LOCAL_OVERCOMMIT", "10000")  # other tests of this machine count too
    # A deployment without a state is adopted by its name, so the name must be nobody else's on this machine.
    monkeypatch.setenv("PILEUS_NAME", f"lab-{secrets.token_hex(4)}")
    yield pileus
    inside("teardown", "--yes")
    assert not trees.exists() or not list(trees.iterdir())


def inside(*words: str) -> str:
    """Run the command in this process, which saves a start; it must succeed. Gives its standard output."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = app.run(list(words))
    assert status == 0, err.getvalue()
    return out.getvalue()


def spawned(*words: str) -> str:
    """The name of a new server."""
    [name] = inside("spawn", *words).split()
    return name


def servers() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(inside("list", "--json"))
    return found


def existing() -> list[str]:
    """Names of the servers that the provider's own listing shows."""
    listed = json.loads(inside("audit", "--json"))
    return [item["name"] for item in listed if item["kind"] == "server" and item["ours"]]


def started(*words: str, work: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([PILEUS, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=work)


def processes_with(mark: str) -> list[int]:
    """Processes of this machine that have the mark on their command line, our own helpers not counted."""
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit() and int(directory.name) != os.getpid():
            try:
                if mark.encode() in (directory / "cmdline").read_bytes():
                    found.append(int(directory.name))
            except OSError:
                continue
    return found


def gone(mark: str) -> bool:
    """Whether no process has the mark any more, very soon: a killed process is a moment in going."""
    deadline = time.monotonic() + 10
    while processes_with(mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_job_has_its_output_its_files_and_its_status_and_leaves_no_server(lab: Command, tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "in.txt").write_bytes(b"b\na\n")
    (work / "tree").mkdir()
    (work / "tree/x").write_text("x")
    told = lab(
        *(
            "run",
            "--push",
            "in.txt",
            "--push",
            "tree:deep/er/",
            "--pull",
            "out.txt",
            "--pull",
            "deep:got",
            "--env",
            "WORD=a b'",
        ),
        *("--", r'sort in.txt > out.txt; printf "\377 $WORD $PILEUS_INDEX/$PILEUS_COUNT"; cat; echo oops >&2; exit 3'),
        stdin=b"not for the command",
    )
    assert told.returncode == 3
    assert told.stdout == b"\xff a b' 0/1"
    assert b"oops\n" in told.stderr
    assert (work / "out.txt").read_bytes() == b"a\nb\n"
    assert (work / "got/er/tree/x").read_text() == "x"
    assert servers() == []
    assert existing() == []


def test_words_arrive_as_they_are_and_standard_input_when_asked_for(lab: Command) -> None:
    words = ["printf", "%s|", "a b", "$HOME", "it's", "", "ü\n"]
    told = lab("run", "-q", "--keep", "10m", *words)
    assert (told.returncode, told.stdout, told.stderr) == (0, "a b|$HOME|it's||ü\n|".encode(), b"")
    assert lab("run", "-q", "--stdin", "cat", stdin=b"in\0put").stdout == b"in\0put"


def test_a_kept_server_is_used_again_and_left_and_its_data_with_it(lab: Command) -> None:
    assert lab("run", "--keep", "10m", "--", "echo kept > file").returncode == 0
    [server] = servers()
    assert (server["status"], server["in_use"], server["ttd_s"]) == ("ready", False, 600)
    told = lab("run", "cat", "file")
    assert told.stdout == b"kept\n"
    assert server["name"].encode() in told.stderr
    assert [found["id"] for found in servers()] == [server["id"]]


def test_another_server_is_spawned_when_asked_for_or_when_the_old_one_is_dead(lab: Command) -> None:
    name = spawned()
    told = lab("run", "--new", "hostname")
    assert told.returncode == 0, told.stderr.decode()
    assert told.stdout.decode().strip() != name
    [old] = servers()
    [outcome] = LocalDriver().delete_servers([old["id"]], Call("behind-its-back", time.monotonic() + 30))
    assert outcome.error is None
    told = lab("run", "-q", "echo", "alive")
    assert (told.returncode, told.stdout) == (0, b"alive\n")


def test_what_is_missing_after_a_failed_command_is_a_warning_and_otherwise_an_error(lab: Command) -> None:
    told = lab("run", "--keep", "10m", "--pull", "nothing", "false")
    assert told.returncode == 1
    assert b"warning" in told.stderr
    told = lab("run", "--pull", "nothing", "true")
    assert told.returncode == 5
    assert b"nothing" in told.stderr
    told = lab("run", "--pull", "nothing", "--pull-if-ok", "false")
    assert b"warning" not in told.stderr


def test_a_commands_signal_and_time_limit_become_its_status(lab: Command) -> None:
    assert lab("run", "--keep", "10m", "kill -9 $$").returncode == 137
    told = lab("run", "--timeout", "0.2", "sleep", "60")
    assert told.returncode == 124
    assert b"time limit" in told.stderr


def test_output_streams_while_the_command_runs(lab: Command, tmp_path: Path) -> None:
    process = started(
        "run", "-q", "echo first; read x < fifo || mkfifo fifo; read x < fifo; echo second", work=tmp_path
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"first\n"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_job_leaves_neither_command_nor_server(
    lab: Command, tmp_path: Path, number: int, status: int
) -> None:
    mark = f"5{time.monotonic_ns() % 10**9}"
    process = started("run", "--pull", "nothing", f"echo going; sleep {mark}", work=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == b"going\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (status, b"")
    assert b"Traceback" not in err
    assert gone(mark)
    assert existing() == []


def test_an_interrupt_while_a_server_boots_leaves_nothing(lab: Command, tmp_path: Path) -> None:
    process = started("run", "echo", "never", work=tmp_path)
    assert process.stderr is not None
    for line in process.stderr:
        if b"booting" in line:
            break
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode in (130, 0)  # it may have been over before the signal came
    assert out in (b"", b"never\n")
    assert existing() == []


def test_an_interrupted_job_leaves_a_server_that_was_there_before(lab: Command, tmp_path: Path) -> None:
    name = spawned()
    mark = f"6{time.monotonic_ns() % 10**9}"
    process = started("run", f"echo going; sleep {mark}", work=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == b"going\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert gone(mark)
    assert existing() == [name]
    assert not servers()[0]["in_use"]


def test_a_reader_that_had_enough_ends_the_job_quietly(lab: Command, tmp_path: Path) -> None:
    process = started("run", "-q", "yes", work=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    assert (process.wait(timeout=60), err) == (141, b"")
    process.stderr.close()
    assert existing() == []


def test_a_reader_that_paused_does_not_keep_an_interrupt_from_working(lab: Command, tmp_path: Path) -> None:
    mark = f"y{time.monotonic_ns()}"
    process = started("run", "-q", "yes", mark, work=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == mark.encode() + b"\n"
    time.sleep(0.5)  # long enough for all buffers to be full
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    process.communicate()
    assert gone(mark)
    assert existing() == []


def test_several_servers_at_once_have_their_own_numbers_results_and_the_worst_status(
    lab: Command, tmp_path: Path
) -> None:
    told = lab(
        *("run", "--count", "3", "--pull", "out", "--pull", "out:{name}.txt"),
        "echo $PILEUS_INDEX of $PILEUS_COUNT; echo $PILEUS_INDEX > out; hostname > name; exit $PILEUS_INDEX",
    )
    assert told.returncode == 2, told.stderr.decode()
    lines = sorted(line.split(" | ") for line in told.stdout.decode().splitlines())
    assert sorted(text for _, text in lines) == ["0 of 3", "1 of 3", "2 of 3"]
    names = {name for name, _ in lines}
    assert len(names) == 3
    for index in range(3):
        assert (tmp_path / f"work/out.{index}").read_text() == f"{index}\n"
    assert {path.name for path in (tmp_path / "work").glob("*.txt")} == {f"{name}.txt" for name in names}
    assert existing() == []


def test_a_job_does_not_move_in_with_another_whose_server_will_be_destroyed(lab: Command, tmp_path: Path) -> None:
    small = ("run", "-q", "--cores", "0.1", "--ram", "10M")
    first = started(*small, "hostname; sleep 60", work=tmp_path)
    assert first.stdout is not None
    theirs = first.stdout.readline()
    ours = lab(*small, "hostname")
    assert (ours.returncode, ours.stderr) == (0, b"")
    assert ours.stdout not in (b"", theirs)
    assert existing() == [theirs.decode().strip()]
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    assert existing() == []


def test_small_jobs_share_a_server_that_is_kept(lab: Command) -> None:
    name = spawned()
    small = ("run", "-q", "--cores", "0.1", "--ram", "10M", "--count", "1", "hostname")
    jobs = [started(*small, work=Path.cwd()) for _ in range(2)]
    assert [job.communicate(timeout=60)[0].decode().strip() for job in jobs] == [name, name]


def test_a_server_lives_from_spawn_to_destroy(lab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    (work / "file").write_text("data")
    (work / "script").write_text("echo made > ~/made")
    told = lab("spawn", "-n", "2", "--ttd", "1h", "--files", f"{work}/file:there", "--script", "script", "--json")
    assert told.returncode == 0, told.stderr.decode()
    made = json.loads(told.stdout)
    assert [server["ttd_s"] for server in made] == [3600, 3600]
    assert [server["external"] for server in made] == [True, True]  # we are outside, and could not reach them else
    first, second = (server["name"] for server in made)
    assert lab("ssh", first, "cat there made").stdout == b"datamade\n"
    monkeypatch.chdir(work)
    inside("push", first, "file", "dir/")
    inside("pull", first, "dir", "back")
    assert (work / "back/file").read_text() == "data"
    titles, *lines = inside("list", "--live").splitlines()
    assert titles.startswith("NAME")
    assert [line.split()[0] for line in lines] == [first, second]
    assert all(line.endswith("active") for line in lines)
    inside("destroy", first, "--yes")
    assert existing() == [second]
    inside("destroy", "--all", "--yes")
    assert servers() == []


def test_a_script_that_fails_destroys_its_server_and_says_why(lab: Command, tmp_path: Path) -> None:
    (tmp_path / "work/bad").write_text("echo broken >&2; exit 9")
    told = lab("spawn", "--script", "bad")
    assert told.returncode == 4
    assert b"broken" in told.stderr
    assert told.stdout == b""
    assert existing() == []


@pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH's client is not installed here")
def test_openssh_gets_in_by_our_configuration_wherever_the_state_is(
    lab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "a b 100% it's"
    directory.mkdir()
    monkeypatch.setenv("PILEUS_SAVE_PATH", str(directory / "state"))
    try:
        name = spawned()
        (tmp_path / "config").write_text(inside("ssh-config"))
        ssh = ["ssh", "-F", str(tmp_path / "config"), "-o", "BatchMode=yes"]
        assert subprocess.run([*ssh, name, "hostname"], capture_output=True).stdout.decode().strip() == name
        told = lab("ssh", name.rpartition("-")[2][:6], "cat; echo $HOME; exit 7", stdin=b"in")
        assert (told.returncode, told.stdout[:3]) == (7, b"in/")
        variables = json.loads(inside("inventory", "--host", name))
        identity = f'IdentityFile="{variables["ansible_ssh_private_key_file"]}"'  # as Ansible writes it
        address = ["-p", str(variables["ansible_port"]), "-l", variables["ansible_user"], variables["ansible_host"]]
        arguments = shlex.split(variables["ansible_ssh_common_args"])
        told = subprocess.run(["ssh", *arguments, "-o", identity, *address, "hostname"], capture_output=True)
        assert told.stdout.decode().strip() == name
    finally:
        inside("teardown", "--yes")
    left = {path.name for path in directory.iterdir()}
    assert not {name for name in left if name.endswith((".known_hosts", ".ssh_config", ".key"))}


@pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH's client is not installed here")
def test_openssh_refuses_another_key_at_the_servers_address(lab: Command, tmp_path: Path) -> None:
    name = spawned()
    text = inside("ssh-config")
    [known_hosts] = [line.split()[1].strip('"') for line in text.splitlines() if "UserKnownHostsFile" in line]
    alias, kind, key = Path(known_hosts).read_text().split()
    Path(known_hosts).write_text(f"{alias} {kind} {key[:-6]}AAAAAA\n")
    (tmp_path / "config").write_text(text)
    told = subprocess.run(
        ["ssh", "-F", str(tmp_path / "config"), "-o", "BatchMode=yes", name, "true"], capture_output=True
    )
    assert told.returncode == 255
    assert b"verification failed" in told.stderr


def test_the_built_in_client_passes_input_output_and_status_on(lab: Command) -> None:
    name = spawned()
    told = lab("ssh", "--built-in", name, "cat; echo err >&2; exit 5", stdin=b"in\xff")
    assert (told.returncode, told.stdout) == (5, b"in\xff")
    assert servers()[0]["idle_s"] is not None
    assert b"err\n" in told.stderr


@pytest.mark.parametrize("words", [["--os", "nope"], ["--cores", "100000"], ["--flavor", "nope"]])
def test_what_the_provider_does_not_offer_is_refused_before_anything_is_made(lab: Command, words: list[str]) -> None:
    told = lab("run", *words, "true")
    assert told.returncode == 3
    assert b"try: " in told.stderr
    assert local_view.look(settings.load({})) is None


def test_no_output_of_any_verb_has_a_secret(lab: Command) -> None:
    inside("spawn", "-q")
    keys = [path for path in Path(os.environ["PILEUS_STATE_DIR"]).iterdir() if path.name.endswith(".key")]
    [secret] = [line for line in keys[0].read_text().splitlines() if len(line) > 60][:1]
    for words in (
        ["deploy", "--json"],
        ["list", "--json"],
        ["audit", "--json"],
        ["inventory"],
        ["ssh-config"],
        ["check", "-vv"],
    ):
        told = lab(*words)
        assert told.returncode == 0, told.stderr.decode()
        assert secret.encode() not in told.stdout + told.stderr
        assert b"PRIVATE KEY" not in told.stdout + told.stderr


def test_the_audit_shows_what_is_not_in_the_state(lab: Command, tmp_path: Path) -> None:
    inside("spawn", "-q")
    for path in Path(os.environ["PILEUS_STATE_DIR"]).iterdir():
        path.unlink()
    told = inside("audit")
    assert "another's" in told
    assert "server" in told


def test_a_tear_down_without_a_terminal_wants_to_hear_yes(lab: Command) -> None:
    name = spawned()
    told = lab("teardown")
    assert told.returncode == 2
    assert name.encode() in told.stderr
    assert existing() == [name]
