"""Whole programs that use the blocking form: interrupted, forked, hung, ended without closing anything."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

PRELUDE = """
import os, signal, sys, threading, time
from pileus import Provider, UsageError
from pileus.testing import cloud_named, rules

cloud = cloud_named("here", boot_s=0.0, delete_s=0.0)

def make():
    return Provider("simulator", "lab", sys.argv[1], settings={"cloud": "here", "poll_interval_s": "0.01"})
"""


def start(script: str, place: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        # Forking while the loop's thread runs is what is tested; newer Pythons warn of it.
        [
            sys.executable,
            "-W",
            "error",
            "-W",
            "ignore::DeprecationWarning",
            "-c",
            PRELUDE + textwrap.dedent(script),
            str(place / "state"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(program: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = program.communicate(timeout=60)
    finally:
        program.kill()
        program.wait()
    return program.returncode, out, err


def test_a_program_ends_quietly_without_closing_anything(tmp_path: Path) -> None:
    program = start(
        """
        provider = make()
        provider.deploy()
        server = provider.spawn("", "", provider.flavors()[0])
        for thread in threading.enumerate():
            assert thread.daemon or thread is threading.main_thread(), thread
        assert os.path.exists(f"{provider.state_path}-wal")
        """,
        tmp_path,
    )
    assert finish(program) == (0, "", "")
    assert not (tmp_path / "state.lab-wal").exists()  # the state was closed in an orderly way


def test_a_program_does_not_wait_for_a_driver_that_hangs(tmp_path: Path) -> None:
    program = start(
        """
        provider = make()
        cloud.add_rules(rules.Hang(operation="quota"))
        threading.Thread(target=provider.quota, daemon=True).start()
        while not any(call.operation == "quota" for call in cloud.calls):
            time.sleep(0.01)
        print("hung", time.monotonic(), flush=True)
        """,
        tmp_path,
    )
    status, out, err = finish(program)
    took = time.monotonic() - float(out.split()[1])
    assert (status, err) == (0, "")
    assert took < 30  # the driver's own deadline is 120 s


def test_an_interrupt_ends_a_call_that_hangs_in_the_driver_and_the_program(tmp_path: Path) -> None:
    program = start(
        """
        provider = make()
        cloud.add_rules(rules.Hang(operation="quota"))
        def interrupt():
            while not any(call.operation == "quota" for call in cloud.calls):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        try:
            provider.quota()
        except KeyboardInterrupt:
            print("interrupted", time.monotonic(), flush=True)
            raise
        """,
        tmp_path,
    )
    status, out, err = finish(program)
    assert time.monotonic() - float(out.split()[1]) < 30
    assert status == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")


def test_a_forked_child_is_told_to_make_its_own_provider_and_can(tmp_path: Path) -> None:
    program = start(
        """
        with make() as provider:
            provider.deploy()
            server = provider.spawn("", "", provider.flavors()[0])
            if (child := os.fork()) == 0:
                status = 1
                try:
                    for call in (provider.quota, server.destroy):
                        try:
                            call()
                        except UsageError as error:
                            assert "make a new Provider in the child" in str(error)
                        else:
                            raise AssertionError("the call was not refused")
                    provider.close()
                    with make() as own:
                        assert list(own.servers(all=True)) == [server.id]
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert server.id in provider.servers(all=True)
            provider.tear_down()
        assert cloud.everything() == []
        """,
        tmp_path,
    )
    assert finish(program) == (0, "", "")


def test_a_child_that_ends_normally_leaves_the_parents_loop_alone(tmp_path: Path) -> None:
    program = start(
        """
        provider = make()
        provider.deploy()
        if (child := os.fork()) == 0:
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        provider.tear_down()
        """,
        tmp_path,
    )
    assert finish(program) == (0, "", "")
