"""A server's directory: what lies where, how a boot script finds it, and how it is removed.

```
<tree>/home/<user>         HOME, the working directory of sessions
<tree>/tmp                 its /tmp, where namespaces are to be had
<tree>/etc/ssh             the host key
<tree>/run/pileus          sentinel, lease, and requests to the server process
<tree>/var/log/console.log
<tree>/var/lib/user-data   the boot script, while it runs
<tree>/card.json           what the server is, for the day when the kernel cannot tell
<tree>/lock                held while the server lives
```
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shlex
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pileus.models import BootTarget

SERVER_ID = re.compile(r"local-[0-9a-f]{16}")
_UNFINISHED_S = 600.0


def server_id(intent_id: str) -> str:
    """The id of the server that an intent makes. Pure."""
    return f"local-{hashlib.sha256(intent_id.encode()).hexdigest()[:16]}"


def host_key(tree: Path) -> Path:
    """Where the server's host key lies."""
    return tree / "etc/ssh/ssh_host_ed25519_key"


def console(tree: Path) -> Path:
    """Where the server's console is written."""
    return tree / "var/log/console.log"


def home(tree: Path, user_name: str) -> Path:
    """The server's home directory."""
    return tree / "home" / user_name


def requests(tree: Path) -> Path:
    """Where commands put what they ask of the server process."""
    return tree / "run/pileus"


def make(tree: Path, user_name: str) -> int:
    """Make the directories and take the lock, which lasts as long as the returned file descriptor (and its copies).

    Raises:
        FileExistsError: there is such a tree already.
        OSError: it cannot be made; what was made is removed.
    """
    tree.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    tree.mkdir(mode=0o700)
    try:
        for part in ("home", "tmp", "etc/ssh", "run/pileus", "var/log", "var/lib"):
            (tree / part).mkdir(parents=True)
        (tree / "tmp").chmod(0o1777)
        home(tree, user_name).mkdir(mode=0o700)
        # Locked before it gets its name: a sweep never sees a lock that its owner does not hold yet.
        lock = os.open(tree / "lock.new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        (tree / "lock.new").rename(tree / "lock")
    except OSError:
        remove(tree)
        raise
    return lock


def is_abandoned(tree: Path) -> bool:
    """Whether no process stands behind the tree any more."""
    try:
        lock = os.open(tree / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        with contextlib.suppress(OSError):
            return time.time() - tree.stat().st_mtime > _UNFINISHED_S  # killed while it was made
        return False
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def remove(tree: Path) -> None:
    """Remove a tree, also where directories in it are read-only. Safe to repeat.

    It is renamed first, so that its name is free at once and a half-removed tree is never taken for a whole one.
    """
    grave = tree
    if not tree.name.startswith("."):
        grave = tree.with_name(f".{tree.name}.{secrets.token_hex(4)}")
        try:
            tree.rename(grave)
        except OSError:
            grave = tree
    shutil.rmtree(grave, onerror=_open_and_retry)


def _open_and_retry(function: Callable[..., Any], path: str, _error: object) -> None:
    """Make what stood in the way writable and try again; what still cannot be removed is left to the next sweep."""
    with contextlib.suppress(OSError):
        for place in (Path(path).parent, Path(path)):
            if stat.S_ISDIR(place.lstat().st_mode):
                place.chmod(0o700)
        if function in (os.unlink, os.rmdir):
            function(path)
        else:
            shutil.rmtree(path, ignore_errors=True)


# A command asks the server process by a file and a signal, and waits until the server has taken the file away. The server
# looks for files before it reads its key, so that none is answered by what was true before it was made. All but the
# waiting is done by the shell itself: starting a program costs more than the server takes to answer.
_ASK = """\
cd {place} || exit 1
read -r pid <sshd.pid && : >ask.$$ && kill -HUP "$pid" || exit 1
i=0
while [ -e ask.$$ ]; do
  i=$((i+1))
  if [ "$i" -gt 4000 ]; then echo 'the server does not answer' >&2; exit 1; fi
  if [ "$i" -gt 1000 ]; then sleep 0.01 2>/dev/null || sleep 1; fi
done
if [ -e failed.$$ ]; then cat failed.$$ >&2; rm -f failed.$$; exit 1; fi
"""
# The server keeps a fresh key ready. Whoever takes it copies it without starting a program, and leaves the file empty; only where
# it is empty is the server asked for another, and waited for.
_KEYGEN = """\
if [ -s {place}/spare ] && [ -s {place}/spare.pub ]; then
  for half in '' .pub; do
    while IFS= read -r line; do printf '%s\\n' "$line"; done <{place}/spare$half >"$1$half" || exit 1
  done
  : >{place}/spare && read -r pid <{place}/sshd.pid && kill -HUP "$pid"
  exit
fi
case $1 in /*) path=$1 ;; *) path=$PWD/$1 ;; esac
printf '%s' "$path" >{place}/key.$$ || exit 1
"""
# A server that does not serve yet reads its key when it begins to.
_RELOAD = """\
[ -e {place}/serving ] || exit 0
"""


def boot_target(tree: Path) -> BootTarget:
    """How a boot script finds its way in a tree. Pure; the commands are subshells, and leave no variable behind."""
    place = shlex.quote(str(requests(tree)))
    ask, keygen = _ASK.format(place=place), _KEYGEN.format(place=place)
    return BootTarget(
        root=str(tree),
        keygen=keygen + ask,
        reload_sshd=_RELOAD.format(place=place) + ask,
        power_off=f'kill -TERM "$(cat {place}/sshd.pid)"',
    )
