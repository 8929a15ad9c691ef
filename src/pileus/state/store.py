"""`Store`: the state of one deployment, in one SQLite file, for code that may block."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

from pileus.state import opening
from pileus.state.filesystem import refuse_network_file_system
from pileus.state.ledger import Ledger
from pileus.state.locks import LockFile, OperationLock


class Store(Ledger):
    """The state of one deployment.

    Every method is a transaction of its own, unless it is called within `transaction()`; when it returns, what it wrote is on
    disk (fsync), and when it raises, nothing of it was written. Several processes, threads and Stores may use one file at
    once. Get one from `Store.open`; it is a context manager whose end closes it.

    Raises (any method):
        StateLockedError: another process held the write lock for longer than `busy_timeout_s`.
        StateDamagedError: the file turns out to be damaged.
        StateError: the disk is full, or the file cannot be written any more.
        UsageError: it is closed, or was opened before a fork.
    """

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        provider: str,
        resource_name: str,
        busy_timeout_s: float = 10.0,
        create: bool = True,
    ) -> Self:
        """Open a state, or make it; directories that are made have mode 0700, files 0600, and are narrowed to that.

        Args:
            path: as `state_path` gives it.
            provider: the provider's name; one file belongs to one deployment's name on one provider.
            resource_name: the deployment's name.
            busy_timeout_s: seconds to wait for another process' write lock.
            create: make it when it is not there; when False, that is an error, and nothing is made. `Store.exists` tells before.

        Raises:
            StateVersionError: a newer version of Pileus wrote it.
            StateDamagedError: it is damaged or emptied, not ours, or of another deployment.
            StateLockedError: another process held it for longer than `busy_timeout_s`.
            StateError: it is not there (`create=False`), on a network file system, or cannot be written.

        Whatever it raises, an existing file was not changed.
        """
        place = Path(os.path.abspath(path))  # noqa: PTH100 (the directory may change later; links stay)
        refuse_network_file_system(place)
        if not cls.exists(place):
            if not create:
                raise opening.missing(place)
            opening.create(place, provider, resource_name, busy_timeout_s)
        db = opening.connect(place, provider, resource_name, busy_timeout_s)
        try:
            locks = LockFile.acquire(opening.locks_path(place))
        except BaseException:
            db.close()
            raise
        return cls(db, place, locks, busy_timeout_s)

    @staticmethod
    def exists(path: str | os.PathLike[str]) -> bool:
        """Whether there is a file at that path, sound or not; it is not opened."""
        return os.path.lexists(path)

    def operation_lock(self, name: str, timeout_s: float) -> AbstractContextManager[None]:
        """Hold the exclusive right to one kind of operation (`deploy`, `tear-down`) while the body runs.

        Over all processes and threads that use this deployment; freed by the kernel when the process dies. Not reentrant, and
        apart from transactions. Blocks until it is free.

        Args:
            name: of the operation.
            timeout_s: seconds to wait at most.

        Raises:
            StateLockedError: another still holds it then; the message names the process.
        """
        self._check()
        return self.operation(name).held(timeout_s)

    def operation(self, name: str) -> OperationLock:
        """The same lock, to be taken and given back step by step, by code that may not block."""
        return OperationLock(opening.locks_path(self.path), name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
