"""The helper: a process with everything loaded that a server needs, from which servers are forked.

Forking it costs a few milliseconds where starting Python and loading the SSH library costs some hundred, and the servers
share its memory. There is one for each user and version of this code. It has one thread, keeps nothing, and ends when
nobody has asked for a while; its servers do not notice. It is started and talked to by `calling`.

A conversation, each message one line of JSON: the helper greets (`{"ready": …}`), the client sends one request, the helper
answers each server as soon as it is there or has failed (`{"index": n, "card": …}` or `{"index": n, "error": …, "kind": …}`), and closes.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pileus.drivers.local import calling, cards, ending, keeper, namespaces, trees
from pileus.drivers.local.cards import Card
from pileus.drivers.local.keeper import Order
from pileus.drivers.local.namespaces import Way

_REQUEST_S = 5.0
_SPAWN_S = 60.0


@dataclass(slots=True)
class _Room:
    """What may still be given away, by the quota that came with the request; None for no limit."""

    cores: int
    ram: int
    volume_gb: int

    def take(self, card: Card) -> str:
        """Reserve room for the server; gives what there is too little of, or an empty string."""
        wanted = (("cores", card.cores), ("ram", card.ram), ("volume_gb", card.volume_gb))
        for name, amount in wanted:
            if amount > max(0, getattr(self, name)):
                return f"{amount} {_UNITS[name]} asked for, {max(0, getattr(self, name))} left"
        for name, amount in wanted:
            setattr(self, name, getattr(self, name) - amount)
        return ""


_UNITS = {"cores": "cores", "ram": "MB of RAM", "volume_gb": "GB of disk"}


def main() -> None:
    """Serve until idle. The address and the first idle time come as arguments."""
    address, idle = sys.argv[1], float(sys.argv[2])
    _reserve_card_place()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        calling.bind(listener, address)
    except OSError:
        return  # there is one already
    listener.listen(128)
    _detach()
    Helper(listener, address, idle).serve()


def _detach() -> None:
    """Stand alone: no terminal, no parent that would wait for us, no directory held busy."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    # Keepers are reaped by the kernel: nobody here wants to know how they ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Helper:
    """The loop, and the forking."""

    def __init__(self, listener: socket.socket, address: str, idle: float) -> None:
        self._listener = listener
        self._address = address
        self._idle = idle
        self._ways: dict[str, Way | None] = {}

    def serve(self) -> None:
        """Answer one client after the other."""
        _load_everything()
        _forget_starter()
        while True:
            self._listener.settimeout(self._idle)
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                calling.unbind(self._address)
                return
            with client, contextlib.suppress(OSError, ValueError):
                if calling.peer(client) == os.geteuid():
                    self._answer(client)

    def _answer(self, client: socket.socket) -> None:
        client.settimeout(_REQUEST_S)
        _send(client, {"ready": os.getpid()})
        request = calling.read_line(client)
        self._idle = float(request["idle"])
        directory = Path(request["directory"])
        way = self._way(request["isolation"])
        if request["operation"] == "probe":
            _send(client, {"isolation": way.level if way else ""})
            return
        ending.sweep(directory)
        orders = [_order(entry, request) for entry in request["servers"]]
        if way is None:
            for index in range(len(orders)):
                _send(client, _failure(index, "unsupported", f"{request['isolation']} is not to be had on this system"))
            return
        self._make(client, orders, way, request["limits"], directory)

    def _make(
        self, client: socket.socket, orders: list[Order], way: Way, limits: dict[str, int], directory: Path
    ) -> None:
        room = _room(limits, directory)
        with selectors.DefaultSelector() as selector:
            for index, order in enumerate(orders):
                lack = room.take(order.card)
                if lack:
                    _send(client, _failure(index, "quota", lack))
                    continue
                try:
                    selector.register(_fork_keeper(order, way), selectors.EVENT_READ, index)
                except FileExistsError:
                    _send(client, _failure(index, "exists", f"a server {order.card.id} exists already"))
                except OSError as problem:
                    _send(client, _failure(index, "failed", str(problem)))
            until = time.monotonic() + _SPAWN_S
            while selector.get_map() and time.monotonic() < until:
                for key, _ in selector.select(until - time.monotonic()):
                    channel: Any = key.fileobj
                    done = _hear(channel)
                    if done is not None:
                        selector.unregister(channel)
                        channel.close()
                        # A client that is gone finds its servers by their tags.
                        with contextlib.suppress(OSError):
                            _send(client, {"index": key.data, **done})
            for key in list(selector.get_map().values()):
                with contextlib.suppress(OSError):
                    _send(client, {**_failure(key.data, "failed", "no answer from its keeper"), "unknown": True})

    def _way(self, level: str) -> Way | None:
        """The best way of those that `level` allows, found by trying, once."""
        if level not in self._ways:
            candidates = namespaces.ways(level, root=os.geteuid() == 0)
            self._ways[level] = next((way for way in candidates if _works(way)), None)
        return self._ways[level]


def _works(way: Way) -> bool:
    if way.level != "namespaces":
        return True
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            ours.close()
            keeper.try_way(way, theirs)
        finally:
            os._exit(1)
    theirs.close()
    with ours:
        ours.settimeout(_SPAWN_S)
        while True:
            message = _hear(ours, pid)
            if message is not None:
                return bool(message.get("works"))


def _fork_keeper(order: Order, way: Way) -> socket.socket:
    """Make a server's place and fork its keeper; gives the channel to it."""
    site = keeper.Site.prepare(order)
    ours, theirs = socket.socketpair()
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        trees.remove(Path(order.card.tree))
        raise
    else:
        if pid == 0:
            keeper.keep(order, way, theirs, site)
    finally:
        site.close()
        theirs.close()
    ours.settimeout(_REQUEST_S)
    _pids[ours.fileno()] = pid
    return ours


_pids: dict[int, int] = {}
"""The keeper behind each channel's descriptor."""


def _hear(channel: socket.socket, pid: int = 0) -> dict[str, Any] | None:
    """One message of a keeper; None when it was a question, which is answered, and more is to come."""
    try:
        line = calling.read_bytes(channel)
        if line == keeper.MAP_IDS:
            mapped = namespaces.map_all_ids(pid or _pids[channel.fileno()])
            channel.sendall(b"1" if mapped else b"0")
            return None
        answer: dict[str, Any] = json.loads(line)
    except (OSError, ValueError):
        return {"error": "its keeper ended unexpectedly", "kind": "failed"}
    return answer


def _room(limits: dict[str, int], directory: Path) -> _Room:
    room = _Room(limits["cores"], limits["ram"], limits["volume_gb"])
    for card in cards.listed(directory=directory):
        room.cores -= card.cores
        room.ram -= card.ram
        room.volume_gb -= card.volume_gb
    return room


def _order(entry: dict[str, Any], request: dict[str, Any]) -> Order:
    user_data = base64.b64decode(entry["user_data"])
    return Order(Card(**entry["card"]), user_data, tuple(request["visible"]), float(request["deadline"]))


def _failure(index: int, kind: str, message: str) -> dict[str, Any]:
    return {"index": index, "error": message, "kind": kind}


def _send(client: socket.socket, message: dict[str, Any]) -> None:
    client.sendall(json.dumps(message).encode() + b"\n")


def _load_everything() -> None:
    """Import what a server needs sooner or later, so that it is shared, and is there even if its files go away."""
    import asyncio
    import encodings.ascii
    import encodings.idna
    import encodings.latin_1
    import encodings.utf_8

    import asyncssh
    import asyncssh.sftp

    from pileus.drivers.local import machine

    key = asyncssh.generate_private_key("ssh-ed25519")  # loads the crypto library's lazy parts
    asyncssh.import_private_key(key.export_private_key())
    machine.login_shell()
    asyncio.new_event_loop().close()
    del encodings
    gc.collect()
    gc.freeze()  # shared pages stay shared: the collector does not write to what was there before a fork


def _forget_starter() -> None:
    """Let go of the standard streams, on which a failed start was told."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    os.close(null)


def _reserve_card_place() -> None:
    """Take the descriptor that cards are put at, so that no other file ever has it, here or in a keeper."""
    null = os.open(os.devnull, os.O_RDONLY)
    if null != cards.CARD_FD:
        os.dup2(null, cards.CARD_FD, inheritable=False)
        os.close(null)


if __name__ == "__main__":
    main()
