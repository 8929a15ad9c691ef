"""Where the state lives: its paths, their modes, and whether they are on a network file system.

SQLite's locks and its shared memory cannot be trusted over a network, whatever a mount promises: two machines would each
think that they write alone.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path

from pileus.errors import BadResourceNameError, StateError

SIDE_FILES = ("-wal", "-shm", "-journal", ".sessions", ".key")
"""What may stand beside a state file: SQLite's own, the locks of sessions, and the private key."""

NETWORK_TYPES = frozenset(
    [
        "9p",
        "acfs",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "fhgfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "mfs",
        "ncpfs",
        "nfs",
        "nfs3",
        "nfs4",
        "ocfs2",
        "orangefs",
        "panfs",
        "pvfs2",
        "smb2",
        "smb3",
        "smbfs",
        "vboxsf",
        "fuse.afp",
        "fuse.beegfs",
        "fuse.ceph",
        "fuse.ceph-fuse",
        "fuse.cifs",
        "fuse.curlftpfs",
        "fuse.davfs",
        "fuse.davfs2",
        "fuse.gcsfuse",
        "fuse.geesefs",
        "fuse.glusterfs",
        "fuse.goofys",
        "fuse.juicefs",
        "fuse.mfs",
        "fuse.moosefs",
        "fuse.nfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.s3ql",
        "fuse.seaweedfs",
        "fuse.smbnetfs",
        "fuse.sshfs",
        "fuse.vmhgfs-fuse",
    ]
)
"""Types of file systems, as the kernel names them, that other machines can write to."""

MOVE_AWAY = "pass save_path with a path on a local disk, or set PILEUS_STATE_DIR to a directory on one"


def state_path(provider: str, resource_name: str, save_path: str | os.PathLike[str] | None = None) -> Path:
    """Say where a deployment's state is; no I/O.

    With a `save_path` that is `<save_path>.<resource_name>`, else `<provider>.<resource_name>.db` in the directory
    `PILEUS_STATE_DIR` or, when that is not set, the user's state directory. `~` is understood, and the result is absolute.

    Raises:
        BadResourceNameError: a name could lead out of the directory.
    """
    for word in (provider, resource_name):
        if not word or "/" in word or "\0" in word:
            raise BadResourceNameError(f"{word!r} cannot be part of a file's name", setting="resource_name")
    if save_path is not None:
        whole = f"{os.fspath(save_path)}.{resource_name}"
        return Path(os.path.abspath(os.path.expanduser(whole)))  # noqa: PTH100, PTH111 (`resolve` does I/O)
    directory = os.environ.get("PILEUS_STATE_DIR", "")
    if not directory:
        import platformdirs

        directory = platformdirs.user_state_dir("pileus")
    return Path(os.path.abspath(os.path.expanduser(directory))) / f"{provider}.{resource_name}.db"  # noqa: PTH100, PTH111


def key_path(path: Path) -> Path:
    """The file in which OpenSSH finds the private key of the deployment whose state is at `path`."""
    return path.with_name(path.name + ".key")


def write_private_key(path: Path, pem: str | bytes) -> None:
    """Write a private key to exactly `path`, mode 0600, whole or not at all, on disk when this returns.

    Raises:
        StateError: it cannot be written. What was there before still is.
    """
    content = pem.encode() if isinstance(pem, str) else pem
    content += b"" if content.endswith(b"\n") else b"\n"  # OpenSSH refuses a key without it
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        make_directory(path.parent)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    except OSError as problem:
        raise unwritable(path, problem) from problem


def erase(path: Path) -> None:
    """Overwrite a regular file with zeros, then remove it; safe to repeat, and a link is removed, not followed."""
    try:
        if stat.S_ISREG(path.lstat().st_mode):
            with path.open("r+b", buffering=0) as file:
                file.write(bytes(os.fstat(file.fileno()).st_size))
                os.fsync(file.fileno())
        path.unlink()
        sync_directory(path.parent)
    except FileNotFoundError:
        return
    except OSError as problem:
        raise unwritable(path, problem) from problem


def make_directory(directory: Path) -> None:
    """Make a directory and its missing parents, each with mode 0700; those that exist stay as they are."""
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process made it in between
            each.mkdir(mode=0o700)


def sync_directory(directory: Path) -> None:
    """Have a rename in this directory survive a power cut."""
    handle = os.open(directory, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        with contextlib.suppress(OSError):  # some file systems know no fsync of a directory
            os.fsync(handle)
    finally:
        os.close(handle)


def tighten(path: Path) -> None:
    """Take everybody else's rights to the state and what stands beside it away.

    Raises:
        StateError: others can read it, and the mode cannot be changed.
    """
    for each in (path, *(path.with_name(path.name + suffix) for suffix in SIDE_FILES)):
        try:
            mode = each.stat().st_mode
            if stat.S_ISREG(mode) and mode & 0o077:
                each.chmod(mode & 0o600)
        except FileNotFoundError:
            continue
        except OSError as problem:
            raise StateError(
                f"{each}: others can use this file, and its mode cannot be changed: {problem.strerror}",
                path=str(path),
                hint=f"have its owner run: chmod 600 {each}",
            ) from problem


def unwritable(path: Path, problem: OSError) -> StateError:
    """Say that a file cannot be written, and why."""
    return StateError(f"{path}: cannot be written: {problem.strerror or problem}", path=str(path), hint=MOVE_AWAY)


def refuse_network_file_system(path: Path) -> None:
    """Check where `path` is or would be; no I/O on the file itself.

    Raises:
        StateError: it is on a file system that other machines can write to.
    """
    if not sys.platform.startswith("linux"):
        return  # there is no such table elsewhere
    try:
        table = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return
    found = mounted_type(os.path.realpath(path), table)
    if found in NETWORK_TYPES:
        raise StateError(
            f"{path}: this is on a network file system ({found}), where the locks that keep several processes apart"
            " cannot be trusted",
            path=str(path),
            hint=MOVE_AWAY,
        )


def mounted_type(path: str, mountinfo: str) -> str:
    """The type of the file system at a resolved path, or an empty string when the table does not tell. Pure.

    `mountinfo` is the text of /proc/self/mountinfo. The longest mount point above the path counts, and of several mounts on
    the same point the last, which hides the others.
    """
    longest, found = -1, ""
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5 or not after:
            continue
        point = _unescaped(fields[4]).rstrip("/")
        if (path == point or path.startswith(point + "/")) and len(point) >= longest:
            longest, found = len(point), after.split(" ")[0]
    return found


def _unescaped(field: str) -> str:
    """Spaces, tabs, newlines and backslashes stand in the table as a backslash and three octal digits."""
    for escape, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(escape, character)
    return field
