"""A simulated cloud as a process of its own, which outlives the programs that use it.

```
python -m pileus.testing.simulator_process --socket /tmp/cloud.sock --boot-s 2
```

prints one line of JSON, `{"url": …, "pid": …}`, and serves until it is ended by SIGTERM or SIGINT. The URL goes into the driver's
setting `url` or the variable `PILEUS_SIMULATOR_URL`. Without `--socket` it listens on a free TCP port of 127.0.0.1.

Each request is a line of JSON, and so is each answer. A request that arrived whole is carried out, whether or not somebody is still there to
hear the answer. The cloud runs by the machine's clock, and is forgotten when the process ends. Whoever can open the socket
can use the cloud: there is nothing in it but records.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pileus.drivers.base import Call
from pileus.errors import ConfigError, PileusError
from pileus.models import Quota
from pileus.testing.cloud import ReplyLostError, SimulatedCloud
from pileus.testing.remote_cloud import RemoteCloud
from pileus.testing.rules import CALLS
from pileus.testing.simulator import CLOUD_NUMBERS, LIMITS, URL_VARIABLE
from pileus.testing.wire import from_line, to_line

CONTROLS = ("add_rules", "clear_rules", "forget_calls", "everything", "plant", "change", "remove")
PROPERTIES = ("calls", "counts")
LONGEST_SOCKET_PATH = 100
"""A little less than what `sockaddr_un` has room for (108 on Linux, 104 elsewhere)."""


# --- the process ---


def answer(cloud: SimulatedCloud, line: bytes) -> bytes | None:
    """Carry out one request; the answer's line, or None when the connection is to be closed instead."""
    try:
        request = from_line(line)
        return to_line({"result": _carry_out(cloud, request)})
    except ReplyLostError as problem:
        return None if problem.close_connection else to_line({"error": problem})
    except PileusError as problem:
        return to_line({"error": problem})
    except (KeyError, TypeError, AttributeError, ValueError) as problem:
        return to_line({"error": ConfigError(f"no request that this simulator understands: {problem!r}")})


def _carry_out(cloud: SimulatedCloud, request: dict[str, Any]) -> object:
    operation, arguments, named = request["do"], request["args"], request["named"]
    if operation in PROPERTIES:
        return getattr(cloud, operation)
    if operation in CONTROLS:
        return getattr(cloud, operation)(*arguments, **named)
    if operation not in (*CALLS, "ping"):
        raise ValueError(f"no operation {operation!r}")
    call = Call(str(request["id"]), time.monotonic() + float(request["left_s"]))
    return getattr(cloud, operation)(*arguments, call)


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client is gone; what it asked for was done
            for line in self.rfile:
                if not line.endswith(b"\n"):
                    return  # it went away in the middle of a request, which is none then
                told = answer(self.server.cloud, line)
                if told is None:
                    return
                self.wfile.write(told)


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    allow_reuse_address = True
    disable_nagle_algorithm = True
    cloud: SimulatedCloud


class _UnixServer(_Server):
    address_family = socket.AF_UNIX
    disable_nagle_algorithm = False
    allow_reuse_address = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a cloud until a signal ends it."""
    options = _parser().parse_args(arguments)
    limits = Quota(**{name: getattr(options, name) for name in LIMITS})
    cloud = SimulatedCloud(limits=limits, **{name: getattr(options, name) for name in CLOUD_NUMBERS})
    path: Path | None = options.socket
    try:
        server = _listen(path)
    except OSError as problem:
        print(f"cannot listen on {path or '127.0.0.1'}: {problem}", file=sys.stderr)  # noqa: T201
        return 1
    server.cloud = cloud
    try:
        if path:
            path.chmod(0o600)
        _serve(server, path, cloud.listing_lag_s, until_stdin_closes=options.until_stdin_closes)
    finally:
        server.server_close()
        if path:
            path.unlink(missing_ok=True)
    return 0


def _listen(path: Path | None) -> _Server:
    if path is None:
        return _Server(("127.0.0.1", 0), _Handler)
    if path.is_socket() and not _is_listening(path):
        path.unlink()  # left by a process that was killed
    address: Any = str(path)  # a Unix socket's address is text, whatever the base class says
    return _UnixServer(address, _Handler)


def _is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        return True


def _wait_for_end_of_stdin(stop: threading.Event) -> None:
    sys.stdin.buffer.read()
    stop.set()


def _serve(server: _Server, path: Path | None, listing_lag_s: float, *, until_stdin_closes: bool) -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    url = f"unix://{path}" if path else f"tcp://127.0.0.1:{server.server_address[1]}"
    told = {"url": url + (f"?listing_lag_s={listing_lag_s:g}" if listing_lag_s else ""), "pid": os.getpid()}
    print(json.dumps(told), flush=True)  # noqa: T201
    if until_stdin_closes:
        threading.Thread(target=_wait_for_end_of_stdin, args=(stop,), daemon=True).start()
    stop.wait()
    server.shutdown()
    thread.join()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pileus.testing.simulator_process", description=__doc__)
    parser.add_argument("--socket", type=_socket_path, help="path of the Unix socket to make; TCP without it")
    for name, default in zip(CLOUD_NUMBERS, (10.0, 2.0, 0.0, 0.0), strict=True):
        parser.add_argument("--" + name.replace("_", "-"), type=float, default=default, metavar="SECONDS")
    for name in LIMITS:
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=0, metavar="N", help="0: unlimited")
    parser.add_argument("--until-stdin-closes", action="store_true", help="also end when standard input does")
    return parser


def _socket_path(text: str) -> Path:
    path = Path(text).absolute()
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise argparse.ArgumentTypeError(f"a socket's path has at most {LONGEST_SOCKET_PATH} bytes: {path}")
    return path


# --- for tests ---


class SimulatorProcess:
    """A simulator process for the length of a `with` block. It goes too when the program that started it dies.

    Args:
        socket: the path of its Unix socket; one in a temporary directory when None.
        options: `boot_s`, `delete_s`, `listing_lag_s`, `latency_s`, `max_instances`, `max_cores`, `max_ram`,
            `max_volume`, as in `SimulatedCloud`.

    Attributes:
        url: what the driver's setting `url` takes, once started.
        pid: the process's.
        cloud: the way to its rules, its log, and all that exists in it.
    """

    url: str
    pid: int
    cloud: RemoteCloud

    def __init__(self, socket: str | os.PathLike[str] | None = None, **options: float) -> None:
        if unknown := set(options) - {*CLOUD_NUMBERS, *LIMITS}:
            raise ConfigError(f"a simulator process has no option {sorted(unknown)[0]!r}")
        self._options = options
        self._socket = socket
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> Mapping[str, str]:
        """The driver's settings that lead here."""
        return {"url": self.url}

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment variables that lead here."""
        return {URL_VARIABLE: self.url}

    def __enter__(self) -> Self:
        """Start it, and wait until it listens."""
        path = self._socket
        if path is None:
            self._directory = tempfile.TemporaryDirectory(prefix="pileus-simulator-")
            path = Path(self._directory.name) / "socket"
        command = [sys.executable, "-m", "pileus.testing.simulator_process", "--socket", os.fspath(path)]
        for name, value in self._options.items():
            command += ["--" + name.replace("_", "-"), f"{value:g}" if name in CLOUD_NUMBERS else str(int(value))]
        self._process = subprocess.Popen(
            [*command, "--until-stdin-closes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        line = self._process.stdout.readline() if self._process.stdout else b""
        if not line:
            status = self._end()
            raise RuntimeError(f"the simulator process ended with status {status} before it listened")
        told = json.loads(line)
        self.url, self.pid = told["url"], told["pid"]
        self.cloud = RemoteCloud(self.url)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.cloud.close()
        self._end()

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _end(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        if process.poll() is None:
            process.terminate()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        status = process.wait()
        if self._directory is not None:
            self._directory.cleanup()
        return status


if __name__ == "__main__":
    sys.exit(main())
