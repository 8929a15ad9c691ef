"""The way to the helper: finds it, starts it when there is none, and speaks with it.

Its address is an abstract UNIX socket, which needs no directory, cannot be left behind, and exists once: whoever binds
it first is the helper. Anybody may bind or call it, so each side looks at the other's user id, which the kernel vouches for. Where the system
has none, it is a socket file in a private directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pileus
from pileus.errors import ProviderError

_ABSTRACT = sys.platform == "linux"
_GREETING_LIMIT = 64 * 1024 * 1024
_START_S = 30.0
_TRIES = 4
_START = "import sys, json; sys.path[:] = json.load(sys.stdin); from pileus.drivers.local.helper import main; main()"


def address(attempt: int = 0) -> str:
    """The helper's address for this user, this code, this Python and this process tree."""
    here = Path(__file__).parent
    changed = max(path.stat().st_mtime_ns for path in here.glob("*.py"))
    tree = os.stat("/proc/self/ns/pid").st_ino if _ABSTRACT else 0  # noqa: PTH116
    parts = [pileus.__version__, str(here), str(changed), sys.executable, sys.version, str(tree)]
    key = hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]
    name = f"pileus-helper/{os.geteuid()}/{key}/{attempt}"
    return "@" + name if _ABSTRACT else str(_runtime_directory() / name.replace("/", "-"))


def bind(listener: socket.socket, address: str) -> None:
    """Bind it; OSError when somebody has it."""
    if address.startswith("@"):
        listener.bind("\0" + address[1:])
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(address)
        except OSError:
            Path(address).unlink(missing_ok=True)
    listener.bind(address)


def unbind(address: str) -> None:
    """Take the socket's file away, where there is one."""
    if not address.startswith("@"):
        Path(address).unlink(missing_ok=True)


def peer(connection: socket.socket) -> int:
    """The user id at the other end."""
    if not hasattr(socket, "SO_PEERCRED"):
        return os.geteuid()  # the directory that the socket lies in is ours alone
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", data)[1])


def read_bytes(connection: socket.socket) -> bytes:
    """One line, its end included.

    Raises:
        OSError: the connection ends before the line does, or takes longer than its time-out.
    """
    data = bytearray()
    while not data.endswith(b"\n"):
        # One byte more than a line is never sent before an answer, so nothing of the next one is swallowed.
        chunk = connection.recv(1 << 20)
        if not chunk:
            raise ConnectionError("the other end is gone")
        data += chunk
        if len(data) > _GREETING_LIMIT:
            raise ConnectionError("the line is too long")
    return bytes(data)


def read_line(connection: socket.socket) -> dict[str, Any]:
    """One message; OSError or ValueError when it is none."""
    message: dict[str, Any] = json.loads(read_bytes(connection))
    return message


def ask(request: dict[str, Any], deadline: float) -> Iterator[dict[str, Any]]:
    """Send a request to the helper, started if need be, and give its answers as they come.

    Args:
        request: plain data.
        deadline: a moment of `time.monotonic()`.

    Raises:
        ProviderError: no helper, or it went away or fell silent; `outcome_unknown` is set once the request was sent.
    """
    connection = _connected(deadline)
    with connection:
        data = json.dumps(request).encode() + b"\n"
        sent = False
        try:
            connection.settimeout(_left(deadline))
            sent = True
            connection.sendall(data)
            with connection.makefile("rb") as answers:
                while True:
                    connection.settimeout(_left(deadline))
                    line = answers.readline()
                    if not line:
                        return
                    yield json.loads(line)
        except (OSError, ValueError) as problem:
            raise ProviderError(
                f"the helper of the local provider did not answer: {problem}", provider="local", outcome_unknown=sent
            ) from problem


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    return left


def _connected(deadline: float) -> socket.socket:
    """A connection over which the helper has greeted us: only then does it live and listen to us."""
    attempt, started, problem = 0, 0.0, "it did not start"
    while time.monotonic() < deadline:
        place = address(attempt)
        try:
            return _greeted(place, deadline)
        except PermissionError as refusal:  # somebody else sits there
            attempt, problem = attempt + 1, str(refusal)
            if attempt == _TRIES:
                break
        except (ConnectionError, FileNotFoundError, TimeoutError):
            if time.monotonic() - started > _START_S / 10:
                problem = _start(place) or problem
                started = time.monotonic()
            time.sleep(0.005)
    raise ProviderError(
        f"the helper of the local provider cannot be reached: {problem}",
        provider="local",
        hint="`python -m pileus.drivers.local.helper` needs to be runnable as this user",
    )


def _greeted(place: str, deadline: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_left(deadline))
        connection.connect("\0" + place[1:] if place.startswith("@") else place)
        if peer(connection) != os.geteuid():
            raise PermissionError("its address is taken by another user")
        read_line(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _start(place: str) -> str:
    """Start a helper and wait until it listens or has found that another one does; gives what it complained about."""
    search_path = [os.path.abspath(entry) for entry in sys.path]  # noqa: PTH100
    environment = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG", "LC_ALL", "TZ")}
    with tempfile.TemporaryFile() as complaints:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _START, place, "60"],
            input=json.dumps(search_path).encode(),
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            cwd="/",
            env=environment,
            start_new_session=True,
            check=False,
        )
        complaints.seek(0)
        text = complaints.read().decode(errors="replace").strip()
    return f"{text.splitlines()[-1] if text else 'it ended'} (status {done.returncode})" if done.returncode else ""


def _runtime_directory() -> Path:
    """A directory that is ours alone, for systems without abstract sockets."""
    for base in (os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp"):
        place = Path(base) / (f"pileus-{os.geteuid()}" if base == "/tmp" else "pileus")
        if not base or len(str(place)) > 50:  # a socket's path has 104 bytes on some systems
            continue
        with contextlib.suppress(OSError):
            place.mkdir(mode=0o700, exist_ok=True)
            facts = place.lstat()
            if facts.st_uid == os.geteuid() and not facts.st_mode & 0o077:
                return place
    raise ProviderError("there is no private directory for the helper's socket", provider="local")
