"""What can go wrong in a simulated cloud: one frozen record for each kind of fault.

A rule says to what it applies (`operation`, and for servers a pattern of flavor or name), when it strikes, and what then
happens. Rules of **calls** name a method of the driver (`create_servers`, `list_servers`, …, or `*` for all); rules of
**single servers** name `create_server` or `delete_server`, and see every server of a batch.

Without `nth`, `every` and `probability` a rule strikes each time. Rules are tried in the order in which they were added.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from pileus import errors

CALLS = (
    "flavors",
    "images",
    "quota",
    "check",
    "create_resource",
    "list_resources",
    "delete_resource",
    "create_servers",
    "list_servers",
    "delete_servers",
    "console",
)
"""The operations of a whole call."""
SINGLE = ("create_server", "delete_server")
"""The operations of one server of a batch."""
MAKING = ("create_resource", "create_servers", "create_server")
"""Those whose outcome is unknown when the reply is lost."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What all rules share.

    Attributes:
        operation: what the rule watches, see the module.
        nth: strikes at that one only; 1 is the first after the rule was added.
        every: strikes at each so-many-th.
        probability: strikes with that probability, by a generator that starts at `seed`.
        times: at most so many strikes; 0 for no limit.
        flavor: a regular expression that a flavor's id or name must match as a whole; for `create_server`.
        server_name: the same for the server's name.
    """

    fitting: ClassVar[tuple[str, ...]] = ()
    """The operations that the rule is for; empty for all."""

    operation: str
    nth: int = 0
    every: int = 0
    probability: float = 0.0
    seed: int = 0
    times: int = 0
    flavor: str = ""
    server_name: str = ""

    def __post_init__(self) -> None:
        if self.operation != "*" and self.operation not in (*CALLS, *SINGLE):
            raise errors.ConfigError(
                f"a rule for {self.operation!r}, which no cloud does; there are: *, {', '.join((*CALLS, *SINGLE))}",
                setting="operation",
            )
        if self.fitting and self.operation not in self.fitting:
            raise errors.ConfigError(
                f"{type(self).__name__} does nothing for the operation {self.operation!r}; it is for: "
                f"{', '.join(self.fitting)}",
                setting="operation",
            )
        if (self.flavor or self.server_name) and self.operation not in SINGLE:
            raise errors.ConfigError(
                f"flavor and server_name do not go with {self.operation!r}: they are for {' and '.join(SINGLE)}",
                setting="operation",
            )
        for pattern in (self.flavor, self.server_name):
            try:
                re.compile(pattern)
            except re.error as problem:
                raise errors.BadRegexError(f"{pattern!r} is no regular expression: {problem}") from None


@dataclass(frozen=True, kw_only=True)
class Fail(Rule):
    """Nothing is done, and the error named by `error` (a class of `pileus.errors`, a `ProviderError`) is raised.

    `retry_after_s` goes with `RateLimitError` alone.
    """

    error: str = "ProviderError"
    message: str = "the simulated cloud failed, as a rule wanted"
    retry_after_s: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = getattr(errors, self.error, None)
        if not (isinstance(kind, type) and issubclass(kind, errors.ProviderError)):
            raise errors.ConfigError(f"{self.error!r} is no ProviderError of pileus.errors", setting="error")


@dataclass(frozen=True, kw_only=True)
class Throttle(Rule):
    """Too many requests: `RateLimitError` with that wish."""

    operation: str = "*"
    retry_after_s: float | None = 1.0


@dataclass(frozen=True, kw_only=True)
class Slow(Rule):
    """The call takes that many seconds of the cloud's clock longer. It is carried out even when its deadline comes first.

    Attributes:
        seconds: how much longer.
        carried_out_first: do the work at the beginning and wait then, with the reply held back. A client that is
            killed meanwhile leaves a thing of which it never heard.
    """

    fitting = ("*", *CALLS)

    seconds: float
    carried_out_first: bool = False


@dataclass(frozen=True, kw_only=True)
class Hang(Rule):
    """No reply comes until the call's deadline; `carried_out` says whether the work is done all the same."""

    fitting = ("*", *CALLS)

    carried_out: bool = False


@dataclass(frozen=True, kw_only=True)
class LoseReply(Rule):
    """The work is done, and the caller does not hear of it: an error with `outcome_unknown=True` if it was a create.

    With `close_connection` a simulator in a process of its own closes the connection instead of answering; in one
    process that makes no difference.
    """

    close_connection: bool = False


@dataclass(frozen=True, kw_only=True)
class ExpireCredentials(Rule):
    """After `after_calls` more calls, everything is refused with `AuthenticationError`, until the rules are cleared."""

    operation: str = "*"
    after_calls: int = 0


@dataclass(frozen=True, kw_only=True)
class NoHardware(Rule):
    """No machine is free: `NoHardwareError` for the servers that match (`flavor` narrows it)."""

    operation: str = "create_server"


@dataclass(frozen=True, kw_only=True)
class OverQuota(Rule):
    """`QuotaError`, whatever the quota says: somebody else was quicker."""

    operation: str = "create_server"


@dataclass(frozen=True, kw_only=True)
class StuckBuilding(Rule):
    """The server stays in BUILDING for `seconds` longer; None is for ever."""

    fitting = ("create_server",)

    operation: str = "create_server"
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class EndInError(Rule):
    """The server is accepted, and in ERROR `after_s` seconds later, for the reason `fault`."""

    fitting = ("create_server",)

    operation: str = "create_server"
    after_s: float = 1.0
    fault: str = "no valid host was found"


@dataclass(frozen=True, kw_only=True)
class Vanish(Rule):
    """The server exists no more `after_s` seconds after it was accepted, without anybody having deleted it."""

    fitting = ("create_server",)

    operation: str = "create_server"
    after_s: float = 60.0


@dataclass(frozen=True, kw_only=True)
class SlowDelete(Rule):
    """The delete is accepted, and the server stays in DELETING for `seconds` longer; None is for ever."""

    fitting = ("delete_server",)

    operation: str = "delete_server"
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class DeleteEndsInError(Rule):
    """The delete is accepted, and the server is in ERROR instead of gone; another delete may work."""

    fitting = ("delete_server",)

    operation: str = "delete_server"
    fault: str = "could not be deleted"


KINDS: dict[str, type[Rule]] = {
    kind.__name__: kind
    for kind in (
        Fail,
        Throttle,
        Slow,
        Hang,
        LoseReply,
        ExpireCredentials,
        NoHardware,
        OverQuota,
        StuckBuilding,
        EndInError,
        Vanish,
        SlowDelete,
        DeleteEndsInError,
    )
}
"""All rules by name."""


def rule_to_json(rule: Rule) -> dict[str, Any]:
    """The rule as plain values, with its kind under `rule`."""
    return {"rule": type(rule).__name__, **asdict(rule)}


def rule_from_json(value: Mapping[str, Any]) -> Rule:
    """The inverse of `rule_to_json`.

    Raises:
        ConfigError: there is no such rule, or it has other fields.
    """
    fields = dict(value)
    kind = KINDS.get(str(fields.pop("rule", "")))
    if kind is None:
        raise errors.ConfigError(f"{value!r} is no rule; there are: {', '.join(KINDS)}", setting="rule")
    try:
        return kind(**fields)
    except TypeError as problem:
        raise errors.ConfigError(f"{value!r}: {problem}", setting="rule") from None


class RuleBook:
    """The rules in force, and how often each has struck. Not thread-safe: the cloud's lock guards it."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []

    def add(self, rules: Iterable[Rule]) -> None:
        """Put rules in force, behind those that are."""
        self._entries.extend(_Entry(rule) for rule in rules)

    def clear(self) -> None:
        """Forget all rules. What they did to servers that exist stays."""
        self._entries.clear()

    def strikes(self, operation: str, flavor: tuple[str, str] = ("", ""), server_name: str = "") -> list[Rule]:
        """Count one occasion, and tell which rules strike at it."""
        return [entry.rule for entry in self._entries if entry.strikes(operation, flavor, server_name)]


class _Entry:
    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._seen = 0
        self._struck = 0
        self._random = random.Random(rule.seed)

    def strikes(self, operation: str, flavor: tuple[str, str], server_name: str) -> bool:
        rule = self.rule
        if rule.operation != operation and not (rule.operation == "*" and operation in CALLS):
            return False
        if rule.flavor and not any(re.fullmatch(rule.flavor, text) for text in flavor):
            return False
        if rule.server_name and not re.fullmatch(rule.server_name, server_name):
            return False
        self._seen += 1
        if not self._is_time() or (rule.times and self._struck >= rule.times):
            return False
        self._struck += 1
        return True

    def _is_time(self) -> bool:
        rule = self.rule
        if isinstance(rule, ExpireCredentials):
            return self._seen > rule.after_calls
        if rule.nth:
            return self._seen == rule.nth
        if rule.every:
            return self._seen % rule.every == 0
        return self._random.random() < rule.probability if rule.probability else True
