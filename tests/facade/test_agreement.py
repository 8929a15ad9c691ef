"""The blocking and the async form agree: same names, arguments, defaults, kinds and types, modulo awaiting."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

from pileus.blocking import Provider, Server
from pileus.provider import AsyncProvider
from pileus.server import AsyncServer

PAIRS = [(AsyncProvider, Provider), (AsyncServer, Server)]
RENAMED = {"aclose": "close", "__aenter__": "__enter__", "__aexit__": "__exit__"}
SPELLED = {
    "AsyncProvider": "Provider",
    "AsyncServer": "Server",
    "AsyncIterator": "Iterator",
    "AbstractAsyncContextManager": "AbstractContextManager",
    "asyncssh.SSHClientConnection": "SSHClient",
}
SPECIAL = ("__init__", "__aenter__", "__aexit__", "__repr__", "_repr_html_")


def public(kind: type) -> dict[str, Any]:
    """Members that users see, methods of the language's protocols included where the two must agree on them."""
    found = {name: member for name, member in inspect.getmembers_static(kind) if not name.startswith("_")}
    blocking = {RENAMED.get(name, name) for name in SPECIAL}
    special = {name: vars(kind)[name] for name in {*SPECIAL, *blocking} if name in vars(kind)}
    if kind in (AsyncServer, Server):  # nobody but a provider constructs one
        del special["__init__"]
    return found | special


def spelled(annotation: object) -> str:
    text = str(annotation)
    for asynchronous, blocking in SPELLED.items():
        text = re.sub(rf"(?<![\w.]){re.escape(asynchronous)}(?!\w)", blocking, text)
    return text


def shape(function: Callable[..., Any]) -> list[tuple[str, Any, Any, str]]:
    """Name, kind, default and annotation of each parameter, then the annotation of what is returned."""
    signature = inspect.signature(function)
    rows = [(p.name, p.kind, p.default, spelled(p.annotation)) for p in signature.parameters.values()]
    return [*rows, ("return", None, None, spelled(signature.return_annotation))]


def differences(asynchronous: type, blocking: type) -> list[str]:
    """Every way in which the two classes disagree, in words."""
    theirs = {RENAMED.get(name, name): member for name, member in public(asynchronous).items()}
    ours = public(blocking)
    found = [f"{name}: only in the async form" for name in sorted(theirs.keys() - ours.keys())]
    found += [f"{name}: only in the blocking form" for name in sorted(ours.keys() - theirs.keys())]
    for name in sorted(theirs.keys() & ours.keys()):
        found += [f"{name}: {problem}" for problem in _differ(theirs[name], ours[name])]
    return found


def _differ(their: Any, our: Any) -> list[str]:
    if isinstance(their, property) or isinstance(our, property):
        if not (isinstance(their, property) and isinstance(our, property)):
            return ["an attribute in one form, a method in the other"]
        assert their.fget is not None
        assert our.fget is not None
        their, our = their.fget, our.fget
    problems = []
    if inspect.iscoroutinefunction(our) or inspect.isasyncgenfunction(our):
        problems.append("does not block")
    if (wanted := shape(their)) != (given := shape(our)):
        problems.append(f"async {wanted} but blocking {given}")
    return problems


@pytest.mark.parametrize(("asynchronous", "blocking"), PAIRS)
def test_the_two_forms_agree(asynchronous: type, blocking: type) -> None:
    assert differences(asynchronous, blocking) == []


@pytest.mark.parametrize(("asynchronous", "blocking"), PAIRS)
def test_every_public_member_is_documented_in_both_forms(asynchronous: type, blocking: type) -> None:
    for kind in (asynchronous, blocking):
        bare = [name for name, member in public(kind).items() if not name.startswith("_") and not member.__doc__]
        assert bare == []


class Async:
    """The async side for the tests of the comparison itself."""

    async def spawn(self, flavor: AsyncServer, disk_gb: int = 0, *, ttd: float = 0) -> None: ...

    @property
    def state(self) -> str:
        raise NotImplementedError


class Missing:
    @property
    def state(self) -> str:
        raise NotImplementedError


class OtherDefault(Missing):
    def spawn(self, flavor: Server, disk_gb: int = 1, *, ttd: float = 0) -> None: ...


class OtherKind(Missing):
    def spawn(self, flavor: Server, disk_gb: int = 0, ttd: float = 0) -> None: ...


class OtherType(Missing):
    def spawn(self, flavor: Server, disk_gb: int = 0, *, ttd: float = 0) -> bool: ...  # type: ignore[empty-body]


class NotBlocking(Missing):
    async def spawn(self, flavor: Server, disk_gb: int = 0, *, ttd: float = 0) -> None: ...


class Extra(Missing):
    def spawn(self, flavor: Server, disk_gb: int = 0, *, ttd: float = 0) -> None: ...

    def launch(self) -> None: ...


class MethodForAttribute:
    def spawn(self, flavor: Server, disk_gb: int = 0, *, ttd: float = 0) -> None: ...

    def state(self) -> str:
        raise NotImplementedError


class Same(Missing):
    def spawn(self, flavor: Server, disk_gb: int = 0, *, ttd: float = 0) -> None: ...


@pytest.mark.parametrize("kind", [Missing, OtherDefault, OtherKind, OtherType, NotBlocking, Extra, MethodForAttribute])
def test_the_comparison_sees_each_kind_of_difference(kind: type) -> None:
    assert len(differences(Async, kind)) == 1


def test_the_comparison_accepts_what_is_the_same() -> None:
    assert differences(Async, Same) == []
