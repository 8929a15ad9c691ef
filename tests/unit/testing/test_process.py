"""The simulated cloud as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pileus.drivers.base import TAG_DEPLOYMENT, Call, Outcome, ResourceRequest, ServerRequest, ServerStatus
from pileus.errors import ConfigError, PileusError, ProviderError, RateLimitError
from pileus.models import DeployConfig, Quota
from pileus.testing import SimulatorDriver, forget_cloud, rules
from pileus.testing.cloud import FLAVORS, IMAGES
from pileus.testing.conformance import run_conformance
from pileus.testing.conformance.subject import DriverUnderTest
from pileus.testing.simulator_process import SimulatorProcess, answer
from pileus.testing.wire import from_line, to_line

from .conftest import Ground, call


@pytest.fixture(scope="module")
def process() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(boot_s=0.2, delete_s=0.05) as process:
        yield process


@pytest.fixture
def driver(process: SimulatorProcess) -> Iterator[SimulatorDriver]:
    driver = SimulatorDriver(process.settings)
    yield driver
    driver.close()
    process.cloud.clear_rules()
    for thing in process.cloud.everything():
        if hasattr(thing, "status"):
            process.cloud.remove(thing.id)


def request(name: str = "server", **changes: object) -> ServerRequest:
    made = ServerRequest(f"i-{name}", name, FLAVORS[0], IMAGES[0], "sim", 0, False, {TAG_DEPLOYMENT: "d1"})
    return replace(made, **changes)  # type: ignore[arg-type]


CREATE_AND_HANG = """
import sys, time
from pileus.drivers.base import Call
from pileus.testing import SimulatorDriver
from pileus.testing.wire import from_line
driver = SimulatorDriver({"url": sys.argv[1]})
driver.create_servers(from_line(sys.stdin.buffer.readline()), Call("killed", time.monotonic() + 60))
"""


def test_the_driver_passes_the_conformance_suite_over_the_socket(process: SimulatorProcess) -> None:
    subject = DriverUnderTest(make=lambda: SimulatorDriver(process.settings), poll_s=0.02, many=25)
    names = [
        "capabilities_are_consistent",
        "unusual_tags_come_back_unchanged",
        "every_server_is_listed_once",
        "neighbours_are_told_apart",
        "a_deleted_server_is_listed_until_it_is_gone",
        "a_resource_in_use_is_an_error_at_once",
        "one_bad_request_spoils_no_other",
        "a_deadline_in_the_past_is_an_error",
        "drivers_have_no_memory",
        "calls_from_threads_do_not_disturb_each_other",
    ]
    report = run_conformance(subject, only=names)
    assert [result.status for result in report.results] == ["passed"] * len(names), str(report)


def test_what_a_killed_client_asked_for_is_carried_out(process: SimulatorProcess, driver: SimulatorDriver) -> None:
    process.cloud.add_rules(rules.Slow(operation="create_servers", seconds=0.3, nth=1))
    process.cloud.forget_calls()
    client = subprocess.Popen([sys.executable, "-c", CREATE_AND_HANG, process.url], stdin=subprocess.PIPE)
    assert client.stdin is not None
    client.stdin.write(to_line([request("orphan")]))
    client.stdin.close()
    while not process.cloud.counts["create_servers"]:
        time.sleep(0.005)
    assert client.poll() is None
    assert process.cloud.everything() == []
    client.send_signal(signal.SIGKILL)
    client.wait()
    deadline = time.monotonic() + 30
    while not driver.list_servers("d1", call()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [record.name for record in driver.list_servers("d1", call())] == ["orphan"]


def test_a_connection_closed_instead_of_an_answer_is_an_unknown_outcome(
    process: SimulatorProcess, driver: SimulatorDriver
) -> None:
    process.cloud.add_rules(rules.LoseReply(operation="create_servers", nth=1, close_connection=True))
    with pytest.raises(ProviderError, match="closed before the answer came") as caught:
        driver.create_servers([request()], call())
    assert caught.value.outcome_unknown
    assert (caught.value.provider, caught.value.request_id) == ("simulator", "request-1")
    assert len(driver.list_servers("d1", call())) == 1


def test_a_hung_call_ends_at_its_deadline_on_both_sides(process: SimulatorProcess, driver: SimulatorDriver) -> None:
    process.cloud.add_rules(rules.Hang(operation="create_servers", nth=1))
    late = call(0.1)
    with pytest.raises(ProviderError, match="deadline") as caught:
        driver.create_servers([request()], late)
    assert time.monotonic() >= late.deadline - 0.01
    assert caught.value.outcome_unknown
    assert driver.list_servers("d1", call()) == []


def test_errors_arrive_with_their_type_and_their_data(process: SimulatorProcess, driver: SimulatorDriver) -> None:
    process.cloud.add_rules(rules.Throttle(operation="quota", nth=1, retry_after_s=4.5))
    with pytest.raises(RateLimitError) as caught:
        driver.quota(call())
    assert (caught.value.retry_after_s, caught.value.operation) == (4.5, "quota")


def test_controls_work_over_the_socket(process: SimulatorProcess, driver: SimulatorDriver) -> None:
    planted = process.cloud.plant(name="stranger", tags={TAG_DEPLOYMENT: "d1"})
    assert [record.id for record in driver.list_servers("d1", call())] == [planted]
    process.cloud.change(planted, ServerStatus.ERROR, fault="broken")
    assert driver.list_servers("d1", call())[0].fault == "broken"
    process.cloud.remove(planted)
    assert driver.list_servers("d1", call()) == []
    last = process.cloud.calls[-1]
    assert (last.operation, last.request_id) == ("list_servers", "request-1")


def test_many_threads_share_one_driver(process: SimulatorProcess, driver: SimulatorDriver) -> None:
    problems: list[BaseException] = []

    def work(number: int) -> None:
        try:
            driver.create_servers([request(f"t{number}-{one}") for one in range(5)], call())
        except BaseException as problem:  # noqa: BLE001
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len({record.name for record in driver.list_servers("d1", call())}) == 40


def test_the_environment_leads_to_the_process(process: SimulatorProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in process.environment.items():
        monkeypatch.setenv(name, value)
    driver = SimulatorDriver()
    driver.flavors(call())
    driver.close()
    before = process.cloud.counts["flavors"]
    in_process = SimulatorDriver({"cloud": "not-the-process"})
    in_process.flavors(call())
    forget_cloud("not-the-process")
    assert process.cloud.counts["flavors"] == before


def test_a_killed_process_is_an_error_and_its_socket_is_taken_over(tmp_path: Path) -> None:
    socket = tmp_path / "cloud socket"
    with SimulatorProcess(socket, listing_lag_s=1.5) as first:
        driver = SimulatorDriver(first.settings)
        assert driver.capabilities.listing_lag_s == 1.5
        driver.flavors(call())
        first.kill()
        with pytest.raises(ProviderError, match="connection") as caught:
            driver.create_servers([request()], call())
        assert caught.value.outcome_unknown
        with pytest.raises(ProviderError, match="no simulator") as caught:
            driver.create_servers([request()], call())
        assert not caught.value.outcome_unknown
        assert socket.exists()
        with SimulatorProcess(socket) as second:
            driver.flavors(call())
            with pytest.raises(RuntimeError, match="before it listened"):
                SimulatorProcess(socket).__enter__()
            assert second.cloud.counts["flavors"] == 1
        driver.close()
    assert not socket.exists()


def test_the_process_goes_when_its_parent_dies(tmp_path: Path) -> None:
    program = (
        "import os, signal; from pileus.testing.simulator_process import SimulatorProcess; "
        f"p = SimulatorProcess({str(tmp_path / 's')!r}).__enter__(); print(p.pid, flush=True); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    parent = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=False)
    pid, deadline = int(parent.stdout), time.monotonic() + 30
    while (tmp_path / "s").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not (tmp_path / "s").exists()
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_it_listens_on_loopback_tcp_and_ends_by_sigterm() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pileus.testing.simulator_process", "--max-instances", "1"], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        told = from_line(process.stdout.readline())
        assert told["pid"] == process.pid
        assert told["url"].startswith("tcp://127.0.0.1:")
        driver = SimulatorDriver({"url": told["url"]})
        assert [bool(one.error) for one in driver.create_servers([request("a"), request("b")], call())] == [False, True]
        driver.close()
    finally:
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(30) == 0
        process.stdout.close()  # type: ignore[union-attr]


def test_a_socket_path_that_is_too_long_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pileus.testing.simulator_process", "--socket", "/tmp/" + "x" * 120],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "at most" in done.stderr


@pytest.mark.parametrize(
    "line",
    [
        b"not json\n",
        b"[]\n",
        b"{}\n",
        b'{"do":"_serve","args":[],"named":{}}\n',
        b'{"@":"Secret"}\n',
        b'{"@":"error","kind":"Any","message":""}\n',
    ],
)
def test_a_line_that_is_no_request_is_answered_with_an_error(ground: Ground, line: bytes) -> None:
    told = answer(ground.cloud, line)
    assert told is not None
    assert isinstance(from_line(told)["error"], ConfigError)


def test_records_survive_the_way_there_and_back(ground: Ground) -> None:
    made = ground.request(
        "ünï", user_data=b"\x00\xff#!", tags={"@": "sign", "k": "Ω"}, config=DeployConfig(cidr="10.0.0.0/16")
    )
    record = ground.server("back", external_ip=True)
    for value in (
        made,
        record,
        Quota(max_ram=5),
        ResourceRequest("i", "k", "n", {}, {"size_gb": 3}),
        [None, 1.5, True],
    ):
        assert from_line(to_line(value)) == value
    sent = ProviderError("no", hint="yes", request_id="r", outcome_unknown=True, provider="p", operation="o")
    back = from_line(to_line(Outcome("x", error=sent))).error
    assert isinstance(back, PileusError)
    assert vars(back) == vars(sent)


def test_a_call_past_its_deadline_is_not_sent(process: SimulatorProcess, driver: SimulatorDriver) -> None:
    before = process.cloud.counts["images"]
    with pytest.raises(ProviderError, match="before the request was sent"):
        driver.images(Call("r", time.monotonic() - 1))
    assert process.cloud.counts["images"] == before
