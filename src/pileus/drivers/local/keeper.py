"""One small process for each server, outside of it: makes it, stands for it, and cleans up after it.

It is forked from the helper, forks the server's first process in turn, holds mark and card, waits until that process
ends, ends what is left of it, removes the tree, and goes. A server is gone when its keeper is. Should the keeper be killed,
the server's first process is killed by the kernel, and the next sweep removes the tree.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from pileus.drivers.local import cards, kernel, namespaces, processes, trees
from pileus.drivers.local.cards import Card
from pileus.drivers.local.namespaces import Way

MAP_IDS = b"map\n"
"""What a keeper says when it needs its ids mapped from outside. The answer is `1` or `0`."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to make.

    Attributes:
        card: as far as it is known.
        user_data: the boot script.
        visible: paths to keep in sight below /tmp.
        deadline: a moment of `time.monotonic()`, the same in all processes, after which no server comes into being: who has given
            up waiting can trust a listing.
    """

    card: Card
    user_data: bytes
    visible: tuple[str, ...]
    deadline: float


@dataclass(frozen=True, slots=True)
class Site:
    """What a server stands on, made before the fork: the locked tree, its console, the socket that SSH will listen on.

    In the helper this costs a third of what it costs in a keeper, where each page that is touched is copied first.
    """

    lock: int
    console: int
    listener: socket.socket

    @classmethod
    def prepare(cls, order: Order) -> Site:
        """Make it.

        Raises:
            FileExistsError: the server exists already.
            OSError: it cannot be made; nothing is left of it.
        """
        tree = Path(order.card.tree)
        lock = trees.make(tree, order.card.user_name)
        try:
            console = os.open(trees.console(tree), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                return cls(lock, console, socket.create_server(("127.0.0.1", 0), backlog=1024))
            except OSError:
                os.close(console)
                raise
        except OSError:
            os.close(lock)
            trees.remove(tree)
            raise

    def close(self) -> None:
        """Let go of it; the keeper has it all."""
        os.close(self.lock)
        os.close(self.console)
        self.listener.close()


def keep(order: Order, way: Way, channel: socket.socket, site: Site) -> NoReturn:
    """Keep a server, in a process that was just forked for this. Never returns.

    One line of JSON goes over `channel`: `{"card": …}` when the server is there, `{"error": …, "kind": …}` when not; in that case
    nothing is left of it.
    """
    try:
        os.setsid()
        os.chdir("/")
        gc.disable()  # a collection would copy pages that are shared with all other keepers
        # Orphans of the server come to us, ended or not; Python's own handlers would print and raise.
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _keep(order, way, channel, site)
    except Exception as problem:  # noqa: BLE001  (the outermost frame of a process: it must be told, not printed)
        _say(channel, error=f"{type(problem).__name__}: {problem}", kind="failed")
    finally:
        os._exit(0)


def _keep(order: Order, way: Way, channel: socket.socket, site: Site) -> None:
    tree, listener = Path(order.card.tree), site.listener
    try:
        # Standard input is /dev/null already.
        for number in (1, 2):
            os.dup2(site.console, number)
        _close_others((channel.fileno(), listener.fileno(), site.lock))
        if sys.platform == "linux":
            kernel.process_control(kernel.PR_SET_NAME, b"pileus-keeper\0")
        if way.level == "namespaces":
            namespaces.leave(way, lambda: _ask_for_ids(channel))
        elif way.level == "subreaper":
            kernel.process_control(kernel.PR_SET_CHILD_SUBREAPER, 1)
        card = replace(order.card, port=listener.getsockname()[1], isolation=way.level)
        server = _start(order, card, listener, channel, site.lock)
    except BaseException:
        trees.remove(tree)
        raise
    listener.close()
    channel.close()
    signal.signal(signal.SIGTERM, lambda *_: os.kill(server, signal.SIGKILL))
    _wait_for(server)
    if way.level != "namespaces":
        processes.end_leftovers(order.card.id, parent=os.getpid())
    trees.remove(tree)


def _start(order: Order, card: Card, listener: socket.socket, channel: socket.socket, lock: int) -> int:
    """Fork the server's first process, put up mark and card, and only then let it go on."""
    go_on, let_go = os.pipe()
    keeper = os.getpid()
    server = os.fork()
    if server == 0:
        try:
            os.close(let_go)
            os.close(lock)
            _be_server(order, card, listener, channel, go_on, keeper)
        except BaseException as problem:  # noqa: BLE001
            _say(channel, error=f"{type(problem).__name__}: {problem}", kind="failed")
            print(f"server ends: {problem!r}", file=sys.stderr, flush=True)  # noqa: T201
        finally:
            os._exit(1)
    try:
        if time.monotonic() > order.deadline:
            raise TimeoutError("the call's deadline has passed")
        cards.hold(replace(card, pid=server, started=processes.started(server)))
        os.write(let_go, b"!")
    except BaseException:
        os.kill(server, signal.SIGKILL)
        _wait_for(server)
        raise
    finally:
        os.close(let_go)
        os.close(go_on)
    return server


def _be_server(
    order: Order, card: Card, listener: socket.socket, channel: socket.socket, go_on: int, keeper: int
) -> None:
    if sys.platform == "linux":
        kernel.process_control(kernel.PR_SET_NAME, b"pileus-server\0")
        kernel.process_control(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.read(go_on, 1) != b"!":
        return  # the keeper died before anybody could know of this server
    os.close(go_on)
    os.close(cards.CARD_FD)
    os.setsid()
    own_tmp = False
    if card.isolation == "namespaces":
        own_tmp = namespaces.furnish(
            Path(card.tree),
            card.name,
            order.visible,
            lambda line: print(line, file=sys.stderr, flush=True),  # noqa: T201
        )
    _say(channel, card=json.loads((Path(card.tree) / "card.json").read_bytes()))
    channel.close()
    gc.enable()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    from pileus.drivers.local import machine  # loaded in the helper long ago, but not by who only starts one

    machine.run(card, order.user_data, listener, own_tmp=own_tmp)


def _wait_for(server: int) -> None:
    """Reap whatever ends until `server` does. This process waits for nobody else, so any child is fair game."""
    while True:
        try:
            if os.waitpid(-1, 0)[0] == server:
                return
        except ChildProcessError:
            return


def _say(channel: socket.socket, **message: Any) -> None:
    with contextlib.suppress(OSError):
        channel.sendall(json.dumps(message).encode() + b"\n")


def _ask_for_ids(channel: socket.socket) -> bool:
    channel.sendall(MAP_IDS)
    return channel.recv(1) == b"1"


def _close_others(kept: Sequence[int]) -> None:
    """Close all that came from the helper. The card's place stays taken, so that nothing else gets its number."""
    first = cards.CARD_FD + 1
    for number in sorted(kept):
        os.closerange(first, number)
        first = number + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX") if sys.platform != "linux" else _highest() + 1)


def _highest() -> int:
    return max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208


def try_way(way: Way, channel: socket.socket) -> NoReturn:
    """See whether a server could be kept apart in that way, in a process that was just forked for this."""
    try:
        namespaces.leave(way, lambda: _ask_for_ids(channel))
        child = os.fork()
        if child == 0:
            os._exit(0 if os.getpid() == 1 else 1)
        _say(channel, works=os.waitpid(child, 0)[1] == 0)
    except OSError:
        _say(channel, works=False)
    finally:
        os._exit(0)
