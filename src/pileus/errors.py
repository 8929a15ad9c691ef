"""Every error that Pileus raises, grouped by what the caller can do about it.

```
PileusError
├ ConfigError                       fix the setting or argument named in it
│   BadProviderError · MissingEnvError · BadResourceNameError · BadRegexError · BadCIDRError
├ ProviderError                     the cloud said no, or said nothing
│   AuthenticationError · QuotaError · NoHardwareError · RateLimitError
│   NoFlavorError · BadFlavorError · NoImageError · NotFoundError · UnsupportedError
├ ServerError                       one server is in trouble
│   ServerFailedError · ServerGoneError · ServerTimeoutError
├ RemoteError                       the way to a server, or what ran there
│   ConnectError · HostKeyError · CommandError · TransferError
├ StateError                        the deployment's state file
│   StateLockedError · StateVersionError · StateDamagedError
├ UsageError                        a blocking call from an event loop or after a fork, a closed provider
├ TearDownError                     an exception group, one error for each thing that still exists
└ SpawnError                        an exception group, and the servers that did arrive
```

Every error carries `provider` and `operation` (empty strings where not known) and, where there is one, a `hint`: what to
try. `str(error)` is the whole story, hint included, in one or a few lines that are fit to show to a person; secrets never are
in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pileus.models import CommandResult


class PileusError(Exception):
    """The root of all errors of Pileus.

    Attributes:
        message: what happened, to which thing.
        hint: what to try, or an empty string.
        provider: the provider's name, or an empty string when none is involved (yet).
        operation: the public method or the driver call in which it happened.
    """

    def __init__(self, message: str, *, hint: str = "", provider: str = "", operation: str = "") -> None:
        super().__init__(message)
        this: object = self
        if not isinstance(this, BaseExceptionGroup):  # a group has its own, read-only
            self.message = message
        self.hint = hint
        self.provider = provider
        self.operation = operation

    def __str__(self) -> str:
        """The message, then the hint."""
        return f"{self.message}\n  try: {self.hint}" if self.hint else self.message

    def within(self, provider: str, operation: str) -> Self:
        """Say where the error happened, unless that is known already; returns the error itself."""
        self.provider = self.provider or provider
        self.operation = self.operation or operation
        return self


class ConfigError(PileusError, ValueError):
    """An argument or setting is wrong; nothing was created. `setting` names it."""

    def __init__(self, message: str, *, setting: str = "", **more: Any) -> None:
        super().__init__(message, **more)
        self.setting = setting


class BadProviderError(ConfigError):
    """No driver of that name is installed."""


class MissingEnvError(ConfigError):
    """Environment variables that the provider needs are not set; `missing` lists them."""

    def __init__(self, message: str, *, missing: Sequence[str] = (), **more: Any) -> None:
        super().__init__(message, **more)
        self.missing = tuple(missing)


class BadResourceNameError(ConfigError):
    """The resource name has other characters than letters, digits, `_`, `-` and spaces, or is too long."""


class BadRegexError(ConfigError):
    """A regular expression for flavors does not compile."""


class BadCIDRError(ConfigError):
    """A CIDR is malformed, or no subnet matches it."""


class ProviderError(PileusError):
    """The cloud refused, failed, or did not answer.

    Attributes:
        request_id: the request's id, ours or the cloud's, to quote to the cloud's operators.
        outcome_unknown: True when the request may have taken effect all the same (its reply was lost). What it made is
            then found again by its intent's id; it is not asked for a second time before that.
    """

    def __init__(self, message: str, *, request_id: str = "", outcome_unknown: bool = False, **more: Any) -> None:
        super().__init__(message, **more)
        self.request_id = request_id
        self.outcome_unknown = outcome_unknown


class AuthenticationError(ProviderError):
    """The credentials are wrong, expired, or lack the right."""


class QuotaError(ProviderError):
    """The account's limit, or one that was set on the deployment, does not allow this."""


class NoHardwareError(ProviderError):
    """The cloud has no machine free for that flavor now; another flavor or a later try may do."""


class RateLimitError(ProviderError):
    """Too many requests; `retry_after_s` is the cloud's own wish in seconds, or None."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, **more: Any) -> None:
        super().__init__(message, **more)
        self.retry_after_s = retry_after_s


class NoFlavorError(ProviderError):
    """No flavor is large enough, or none of those that are matches the expression."""


class BadFlavorError(ProviderError):
    """No flavor has that id or name."""


class NoImageError(ProviderError):
    """No image has that id or name, nor one that begins with it; the message lists what there is."""


class NotFoundError(ProviderError):
    """The cloud knows no such thing (any more)."""


class UnsupportedError(ProviderError):
    """The provider cannot do that."""


class ServerError(PileusError):
    """One server is in trouble.

    Attributes:
        server_id: the server's id, or an empty string when it never got one.
        server_name: the server's name.
    """

    def __init__(self, message: str, *, server_id: str = "", server_name: str = "", **more: Any) -> None:
        super().__init__(message, **more)
        self.server_id = server_id
        self.server_name = server_name


class ServerFailedError(ServerError):
    """The server could not be made usable: the cloud put it in error, or its boot or script failed.

    `console` has the tail of its console or of its script's stderr, also shown in the message.
    """

    def __init__(self, message: str, *, console: str = "", **more: Any) -> None:
        super().__init__(message, **more)
        self.console = console


class ServerGoneError(ServerError):
    """The server does not exist any more: destroyed by us, or behind our back."""


class ServerTimeoutError(ServerError, TimeoutError):
    """The server did not get there in time. It may still exist: destroy it or wait again."""


class RemoteError(PileusError):
    """Something between us and a server; `host` is its address and port."""

    def __init__(self, message: str, *, host: str = "", **more: Any) -> None:
        super().__init__(message, **more)
        self.host = host


class ConnectError(RemoteError):
    """No connection, or one that was lost. A command that ran then has no known outcome."""


class HostKeyError(RemoteError):
    """The machine at that address shows a key that is not the server's. Nothing was sent to it."""


class CommandError(RemoteError):
    """A command ended with a status other than 0, or by a signal, or was stopped at its timeout; `result` has everything."""

    def __init__(self, message: str, *, result: CommandResult, **more: Any) -> None:
        super().__init__(message, **more)
        self.result = result


class TransferError(RemoteError):
    """A file or directory could not be moved; `path` names it. No half file is left under the final name."""

    def __init__(self, message: str, *, path: str = "", **more: Any) -> None:
        super().__init__(message, **more)
        self.path = path


class StateError(PileusError):
    """The deployment's state file cannot be used, or forbids this; `path` names it. Nothing in it was changed."""

    def __init__(self, message: str, *, path: str = "", **more: Any) -> None:
        super().__init__(message, **more)
        self.path = path


class StateLockedError(StateError):
    """Another process held the write lock for longer than we wait; the message names it."""


class StateVersionError(StateError):
    """The state file was written by a newer version of Pileus."""


class StateDamagedError(StateError):
    """The state file is not one of ours or is damaged."""


class UsageError(PileusError, RuntimeError):
    """The library is used in a way that cannot work: the message says which and what to do instead."""


class TearDownError(PileusError, ExceptionGroup[PileusError]):
    """Something still exists after a tear-down. `leftovers` names each thing as `kind id (name): why`.

    Tear-down may be repeated; it begins anew with what is left.
    """

    leftovers: tuple[str, ...]

    def __new__(cls, message: str, errors: Sequence[PileusError], **more: Any) -> Self:
        """Make the group; `errors` has one for each thing that is left."""
        return ExceptionGroup.__new__(cls, message, list(errors))

    def __init__(
        self, message: str, errors: Sequence[PileusError], *, leftovers: Sequence[str] = (), **more: Any
    ) -> None:
        PileusError.__init__(self, message, **more)
        self.leftovers = tuple(leftovers)

    def __str__(self) -> str:
        """The message, then a line for each thing that is left, then the hint."""
        return _listed(self, self.leftovers or tuple(str(error) for error in self.exceptions))

    def derive(self, excs: Sequence[PileusError]) -> TearDownError:  # type: ignore[override]
        """Keep our type when `except*` splits the group."""
        return TearDownError(self.message, excs, leftovers=self.leftovers, hint=self.hint)


class SpawnError(PileusError, ExceptionGroup[PileusError]):
    """Some of the servers of a `spawn_many` did not arrive. `servers` are those that did, usable and still there."""

    servers: tuple[Any, ...]

    def __new__(cls, message: str, errors: Sequence[PileusError], **more: Any) -> Self:
        """Make the group; `errors` has one for each server that did not arrive."""
        return ExceptionGroup.__new__(cls, message, list(errors))

    def __init__(
        self, message: str, errors: Sequence[PileusError], *, servers: Sequence[Any] = (), **more: Any
    ) -> None:
        PileusError.__init__(self, message, **more)
        self.servers = tuple(servers)

    def __str__(self) -> str:
        """The message, then a line for each failure, then the hint."""
        return _listed(self, tuple(str(error) for error in self.exceptions))

    def derive(self, excs: Sequence[PileusError]) -> SpawnError:  # type: ignore[override]
        """Keep our type when `except*` splits the group."""
        return SpawnError(self.message, excs, servers=self.servers, hint=self.hint)


def _listed(error: PileusError, lines: Sequence[str]) -> str:
    shown = [f"  - {line}" for line in dict.fromkeys(lines)]
    if len(shown) > 20:
        shown[20:] = [f"  - and {len(shown) - 20} more"]
    hint = [f"  try: {error.hint}"] if error.hint else []
    return "\n".join([error.message, *shown, *hint])
