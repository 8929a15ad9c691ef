from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from pileus import __version__
from pileus.cli import app
from pileus.cli.progress import Progress

Command = Callable[..., "subprocess.CompletedProcess[bytes]"]


def test_the_version_goes_to_standard_output(pileus: Command) -> None:
    told = pileus("--version")
    assert (told.returncode, told.stdout, told.stderr) == (0, f"pileus {__version__}\n".encode(), b"")


def test_help_imports_no_verb_and_nothing_heavy(home: Path) -> None:
    program = (
        "import sys; from pileus.cli import app; app.run(['--help']);"
        "heavy = {'asyncio', 'asyncssh', 'rich', 'sqlite3', 'tomllib', 'pileus.cli.run'} & set(sys.modules);"
        "print(sorted(heavy), file=sys.stderr)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.stderr == "[]\n"
    for verb in app.VERBS:
        assert f"\n  {verb} " in told.stdout


@pytest.mark.parametrize("verb", app.VERBS)
def test_each_verb_says_of_itself_what_the_overview_says(verb: str) -> None:
    command = app.app.get_command(click.Context(app.app), verb)
    assert command is not None
    assert command.help is not None
    assert command.help.strip().splitlines()[0] == app.VERBS[verb][1]
    assert command.name == verb


@pytest.mark.parametrize("verb", app.VERBS)
def test_each_option_of_each_verb_is_explained(verb: str) -> None:
    command = app.app.get_command(click.Context(app.app), verb)
    assert command is not None
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["run"],
        ["run", "--ram", "lots", "--", "true"],
        ["run", "--count", "0", "--", "true"],
        ["run", "--cores", "-1", "--", "true"],
        ["run", "--env", "x", "--", "true"],
        ["run", "--keep", "x", "--", "true"],
        ["run", "--push", "missing", "--", "true"],
        ["run", "--pull", "x:missing/", "--", "true"],
        ["run", "--pull", "a/x", "--pull", "b/x", "--", "true"],
        ["run", "--flavor", "x[", "--", "true"],
        ["run", "--provider", "nope", "--", "true"],
        ["run", "--name", "a/b", "--", "true"],
        ["spawn", "--disk", "-4"],
        ["deploy", "--cidr", "nonsense"],
        ["deploy", "--port", "70000"],
        ["flavors", "--cores", "x"],
        ["push", "server", "missing"],
        ["ssh", "nope"],
        ["list", "--name", ""],
        ["completion", "tcsh"],
    ],
)
def test_bad_input_is_a_usage_error_and_makes_nothing(
    home: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.run(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "pileus: error: " in captured.err
    assert "Traceback" not in captured.err


def test_the_shared_options_stand_before_and_after_the_verb(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--name", "before", "list"]) == 0
    assert app.run(["list", "--name", "after"]) == 0
    assert app.run(["--name", "before", "list", "--name", "after"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[4] for line in said] == ["before", "after", "after"]


def test_quiet_means_no_progress_but_errors(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["list", "-q"]) == 0
    assert capsys.readouterr().err == ""
    assert app.run(["list", "-q", "--provider", "nope"]) == 2
    assert capsys.readouterr().err.startswith("pileus: error: ")


def test_a_traceback_is_shown_only_when_asked_for(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["list", "--provider", "nope", "-v"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_went_away_is_no_cause_for_noise(home: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as out:
        told = subprocess.run(
            [str(Path(sys.executable).with_name("pileus")), "inventory"], stdout=out, stderr=subprocess.PIPE
        )
    assert told.stderr == b""
    assert told.returncode == 141


def test_standard_streams_that_are_closed_do_no_harm(home: Path) -> None:
    pileus = str(Path(sys.executable).with_name("pileus"))
    told = subprocess.run(["sh", "-c", f"'{pileus}' list >&- <&- 2>&-"], capture_output=True)
    assert (told.returncode, told.stdout, told.stderr) == (0, b"", b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_said_in_plain_words(home: Path) -> None:
    with open("/dev/full", "w") as full:
        told = subprocess.run(
            [str(Path(sys.executable).with_name("pileus")), "inventory"], stdout=full, stderr=subprocess.PIPE
        )
    assert told.returncode == 1
    assert b"No space left on device" in told.stderr
    assert b"Traceback" not in told.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell_is_printed(home: Path, shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["completion", shell]) == 0
    assert f"_PILEUS_COMPLETE={shell}_complete" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_cancels_the_work_waits_for_its_cleaning_up_and_becomes_the_status(
    number: int, status: int, tmp_path: Path
) -> None:
    program = """
import asyncio, sys, time
from pathlib import Path
from pileus.cli import loop, outcome
from pileus.cli.progress import Progress

async def work():
    try:
        print("working", flush=True)
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.05)
        print("cleaned up", flush=True)

try:
    loop.drive(work, Progress(live=False))
except KeyboardInterrupt as interrupt:
    sys.exit(outcome.exit_status(interrupt))
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"working\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (status, b"cleaned up\n")
    assert b"interrupted" in err


def test_what_goes_wrong_while_cleaning_up_after_an_interrupt_is_said() -> None:
    program = """
import asyncio
from pileus.cli import loop
from pileus.cli.progress import Progress

async def work():
    try:
        print("working", flush=True)
        await asyncio.sleep(60)
    finally:
        raise OSError("the cloud does not answer")

loop.drive(work, Progress(quiet=True, live=False))
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"working\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert b"warning: while cleaning up: the cloud does not answer" in err


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    program = """
import asyncio
from pileus.cli import loop
from pileus.cli.progress import Progress

async def work():
    try:
        print("working", flush=True)
        await asyncio.sleep(60)
    finally:
        print("cleaning up", flush=True)
        await asyncio.sleep(60)

loop.drive(work, Progress(live=False))
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"working\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == b"cleaning up\n"
    process.send_signal(signal.SIGTERM)  # at once: as `timeout` does, which signals a process and then its group
    time.sleep(0.7)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"pileus list" in err


def test_progress_writes_plain_lines_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(live=False)
    progress.doing("copying")
    report = progress.transfer("sending x")
    report(1, 2)
    report(2, 2)
    progress.note("done\x1b[2J")
    assert capsys.readouterr().err == "pileus: copying\npileus: sending x\npileus: done?[2J\n"


def test_progress_draws_one_line_where_a_person_looks_and_takes_it_away(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(live=True)
    progress.doing("spawning [bold]")
    progress.note("ready")
    progress.stop()
    progress.plain()
    progress.doing("running")
    assert "pileus: ready\n" in capsys.readouterr().err
    assert capsys.readouterr().out == ""


def test_quiet_progress_still_warns(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(quiet=True, live=False)
    progress.doing("copying")
    progress.note("done")
    progress.warn("disk is full")
    assert capsys.readouterr().err == "pileus: warning: disk is full\n"
