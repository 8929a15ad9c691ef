"""Ends servers from outside, without their help and without the helper."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from pathlib import Path

from pileus.drivers.local import cards, processes, trees
from pileus.drivers.local.cards import Card

_GRAVE = re.compile(r"\.local-[0-9a-f]{16}\..*")
"""The name of a tree that was being removed."""


def end(card: Card) -> None:
    """Kill a server's first process; its keeper does the rest. Safe to repeat."""
    cards.condemn(card)
    processes.kill(card.pid, card.started)
    # A keeper that somebody has stopped could not clean up.
    start = processes.started(card.keeper)
    if cards.verified(card.keeper, card.id) is not None:
        with contextlib.suppress(OSError):
            processes.kill(card.keeper, start, signal.SIGCONT)


def clean_up_after(directory: Path, server_id: str) -> None:
    """Remove what a server left behind whose keeper was killed: its tree, and its processes where no namespace held them."""
    tree = directory / server_id
    if not trees.SERVER_ID.fullmatch(server_id) or not os.path.lexists(tree) or not trees.is_abandoned(tree):
        return
    with contextlib.suppress(OSError, ValueError):
        if json.loads((tree / "card.json").read_bytes())["isolation"] != "namespaces":
            processes.end_leftovers(server_id)
    trees.remove(tree)


def sweep(directory: Path) -> None:
    """Clean up after all servers whose keeper was killed, or that ended with the machine. Safe to run at any time."""
    try:
        found = list(directory.iterdir())
    except OSError:
        return
    for tree in found:
        clean_up_after(directory, tree.name)
        if _GRAVE.fullmatch(tree.name) and trees.is_abandoned(tree):
            trees.remove(tree)
