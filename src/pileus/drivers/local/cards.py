"""Who runs: servers as the kernel tells it, with no help from any file.

Each server has a keeper process that holds two things for as long as anything of the server exists:

- a **mark**: an abstract UNIX socket, bound and nothing else, whose name (shown in `/proc/net/unix`) says whose it is:
  `pileus/<user id>/<deployment key>/<server id>/<keeper's pid>`;
- a **card**: a sealed memory file at a fixed descriptor, with all details as JSON, read through `/proc/<pid>/fd/`.

A mark alone proves nothing, since anybody can bind any name; it counts only if the process that it names is ours and
holds a card with the same id. Reading needs no answer from the server, so a stopped or busy one is listed all the same.

Where the system has no abstract sockets, the trees are looked through instead, and a held lock means alive.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import socket
import stat
import sys
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from pileus.drivers.base import TAG_DEPLOYMENT, ServerRecord, ServerStatus
from pileus.drivers.local import processes, trees

CARD_FD = 3
"""Where a keeper holds its card."""

_KERNEL_LISTS = sys.platform == "linux"
_SAFE_KEY = re.compile(r"[A-Za-z0-9_.-]{1,32}")
_MEMORY_FILE = "/memfd:pileus-card"


@dataclass(frozen=True, slots=True)
class Card:
    """All that is known of a server. Everything in it is fixed when the server is made.

    Attributes:
        volume_gb: GB of disk that count against the quota.
        created: ISO 8601 in UTC.
        started: when process `pid`, the server's first one, started, in clock ticks since boot.
        isolation: one of `settings.LEVELS`: what was obtained.
    """

    id: str
    name: str
    tags: dict[str, str]
    flavor: str
    image: str
    cores: int
    ram: int
    volume_gb: int
    external: bool
    created: str
    user_name: str
    tree: str
    port: int = 0
    keeper: int = 0
    pid: int = 0
    started: int = 0
    isolation: str = ""

    def to_json(self) -> bytes:
        """As bytes; `from_json` reads them."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes | str) -> Card:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is something else.
        """
        try:
            return cls(**json.loads(data))
        except TypeError as problem:
            raise ValueError(str(problem)) from None

    def record(self) -> ServerRecord:
        """The server as the interface of drivers shows it, with its state of this moment."""
        return ServerRecord(
            id=self.id,
            name=self.name,
            status=ServerStatus.ACTIVE if self.is_alive() else ServerStatus.DELETING,
            tags=self.tags,
            address="127.0.0.1",
            port=self.port,
            external=self.external,
            flavor_id=self.flavor,
            image_id=self.image,
            created=datetime.fromisoformat(self.created),
        )

    def is_alive(self) -> bool:
        """Whether the server's first process lives and nobody has asked for its end."""
        if is_condemned(self):
            return False
        if not _KERNEL_LISTS:
            return True
        found = processes.look(self.pid)
        return found is not None and found.started == self.started and found.alive


def condemn(card: Card) -> None:
    """Note that the server's end has been asked for, so that it is listed as DELETING even while it dies."""
    with contextlib.suppress(OSError):
        (Path(card.tree) / "condemned").touch()


def is_condemned(card: Card) -> bool:
    """Whether `condemn` was called."""
    return os.path.lexists(f"{card.tree}/condemned")


def deployment_key(deployment_id: str) -> str:
    """The deployment's id as it stands in a mark: itself where it is short and plain, else a digest. Pure."""
    if _SAFE_KEY.fullmatch(deployment_id):
        return deployment_id
    return "~" + hashlib.sha256(deployment_id.encode(errors="surrogateescape")).hexdigest()[:31]


def mark_name(card: Card, user_id: int) -> str:
    """The mark's name, at most 107 bytes. Pure."""
    key = deployment_key(card.tags.get(TAG_DEPLOYMENT, ""))
    return f"pileus/{user_id}/{key}/{card.id}/{card.keeper}"


def hold(card: Card) -> Card:
    """Put up the mark and lay out the card of this process, which is the server's keeper; gives the final card.

    Raises:
        OSError: the name is taken, which only happens when somebody else sits on it.
    """
    card = replace(card, keeper=os.getpid())
    data = card.to_json()
    (Path(card.tree) / "card.json").write_bytes(data)
    if not _KERNEL_LISTS:
        return card
    memory = os.memfd_create(_MEMORY_FILE.removeprefix("/memfd:"), os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(memory, data)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    if memory != CARD_FD:
        os.dup2(memory, CARD_FD, inheritable=False)
        os.close(memory)
    mark = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mark.bind("\0" + mark_name(card, os.geteuid()))
    mark.detach()  # for as long as the process lives
    return card


def listed(deployment_id: str | None = None, directory: Path | None = None) -> list[Card]:
    """The cards of all our servers, or of one deployment's, oldest first.

    The marks of another network namespace are not seen from ours, though its processes may be alive; so `directory` is looked
    through too, for trees that a process holds: a server must not be taken for gone where it is only out of sight.
    """
    found = _from_kernel(deployment_id) if _KERNEL_LISTS else []
    seen = {card.id for card in found}
    found += [card for card in _from_trees(directory) if card.id not in seen]
    if deployment_id is not None:
        found = [card for card in found if card.tags.get(TAG_DEPLOYMENT) == deployment_id]
    return sorted(found, key=lambda card: (card.created, card.id))


def _from_kernel(deployment_id: str | None) -> list[Card]:
    beginning = f"@pileus/{os.geteuid()}/"
    if deployment_id is not None:
        beginning += deployment_key(deployment_id) + "/"
    pattern = re.compile(
        rb"(?m) " + re.escape(beginning).encode() + rb"(?:[^/\s]+/)?(" + trees.SERVER_ID.pattern.encode() + rb")/(\d+)$"
    )
    names = set(pattern.findall(Path("/proc/net/unix").read_bytes()))
    cards = (verified(int(pid), server_id.decode()) for server_id, pid in names)
    return [card for card in cards if card is not None]


def verified(keeper: int, server_id: str) -> Card | None:
    """The card that process `keeper` holds, if the process is ours and the card is that server's."""
    path = f"/proc/{keeper}/fd/{CARD_FD}"
    try:
        if os.stat(f"/proc/{keeper}").st_uid != os.geteuid():  # noqa: PTH116
            return None
        # Never open what a stranger's mark merely points at: opening a device or a pipe can have effects.
        if not os.readlink(path).startswith(_MEMORY_FILE) or not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH115, PTH116
            return None
        with open(path, "rb") as file:  # noqa: PTH123  (200 of them a listing)
            card = Card.from_json(file.read())
    except (OSError, ValueError):
        return None
    return card if card.id == server_id and card.keeper == keeper else None


def _from_trees(directory: Path | None) -> list[Card]:
    found: list[Card] = []
    if directory is None or not directory.is_dir():
        return found
    for tree in directory.iterdir():
        if not trees.SERVER_ID.fullmatch(tree.name) or trees.is_abandoned(tree):
            continue
        with contextlib.suppress(OSError, ValueError):
            found.append(Card.from_json((tree / "card.json").read_bytes()))
    return found
