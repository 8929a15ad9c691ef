"""Why a file operation failed, in plain words, and whether it was the file or the connection. Pure."""

from __future__ import annotations

import asyncssh

_WORDS: dict[type[Exception], str] = {
    asyncssh.SFTPNoSuchFile: "no such file or directory",
    asyncssh.SFTPNoSuchPath: "no such directory",
    asyncssh.SFTPPermissionDenied: "permission denied",
    asyncssh.SFTPNoSpaceOnFilesystem: "no space left on the server's disk",
    asyncssh.SFTPQuotaExceeded: "the disk quota on the server is used up",
    asyncssh.SFTPWriteProtect: "the server's file system is read-only",
    asyncssh.SFTPFileIsADirectory: "is a directory",
    asyncssh.SFTPNotADirectory: "a part of the path is not a directory",
    asyncssh.SFTPLinkLoop: "too many symbolic links",
    asyncssh.SFTPInvalidFilename: "the server does not allow that name",
}

# no operation on local files raises a `ConnectionError`
_LOST = (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, asyncssh.SFTPEOFError, ConnectionError)


def connection_was_lost(problem: Exception) -> bool:
    """Whether a failed operation means that the connection, or its SFTP channel, is gone."""
    return isinstance(problem, _LOST) or not isinstance(problem, asyncssh.SFTPError | OSError)


def explain(problem: Exception) -> str:
    """Say why.

    sshd's SFTP server knows only some reasons; for the rest (a full disk among them) it says "Failure".
    """
    for kind, words in _WORDS.items():
        if isinstance(problem, kind):
            return words
    if isinstance(problem, asyncssh.SFTPError):
        return f"the server says: {problem.reason or 'failure'}"
    words = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
    return words[:1].lower() + words[1:]


def says_nothing(problem: BaseException) -> bool:
    """Whether the server gave no reason, so that it is worth looking for one."""
    return type(problem) is asyncssh.SFTPFailure
