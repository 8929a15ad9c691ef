"""Records, rules and errors as lines of JSON, for a simulated cloud in a process of its own.

Of a record, only the fields that differ from their defaults travel. Nothing but the types listed here can be read, so that a line
from a stranger makes no more than a record.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from datetime import datetime
from functools import cache
from typing import Any

from pileus import errors
from pileus.drivers.base import Outcome, Resource, ResourceRequest, ServerRecord, ServerRequest, ServerStatus
from pileus.models import DeployConfig, Flavor, Image, Quota
from pileus.testing.cloud import LoggedCall, ReplyLostError
from pileus.testing.rules import KINDS

TYPE = "@"
RECORDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        DeployConfig,
        Flavor,
        Image,
        LoggedCall,
        Outcome,
        Quota,
        Resource,
        ResourceRequest,
        ServerRecord,
        ServerRequest,
    )
} | dict(KINDS)
ERROR_FIELDS = ("hint", "provider", "operation", "request_id", "outcome_unknown", "retry_after_s", "setting")


def to_line(value: object) -> bytes:
    """A value as one line."""
    return json.dumps(_plain(value), separators=(",", ":")).encode() + b"\n"


def from_line(line: bytes) -> Any:
    """The inverse.

    Raises:
        ValueError: it is no line of ours.
    """
    try:
        return json.loads(line, object_hook=_record)
    except (KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"no line of ours: {line[:200]!r}: {problem!r}") from None


def _plain(value: object) -> object:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return {TYPE: "bytes", "base64": base64.b64encode(value).decode()}
        case datetime():
            return {TYPE: "datetime", "iso": value.isoformat()}
        case ServerStatus():
            return {TYPE: "status", "value": value.value}
        case errors.PileusError():
            more = {name: getattr(value, name) for name in ERROR_FIELDS if getattr(value, name, None)}
            return {TYPE: "error", "kind": type(value).__name__, "message": value.message, **more}
        case Mapping() if TYPE in value:
            return {TYPE: "mapping", "items": [[key, _plain(one)] for key, one in value.items()]}
        case Mapping():
            return {str(key): _plain(one) for key, one in value.items()}
        case list() | tuple():
            return [_plain(one) for one in value]
    kind: type = type(value)
    if kind.__name__ not in RECORDS:
        raise ValueError(f"{kind.__name__} does not travel")
    told: dict[str, object] = {TYPE: kind.__name__}
    for name, default in _fields_of(kind):
        if (one := getattr(value, name)) != default:
            told[name] = _plain(one)
    return told


@cache
def _fields_of(kind: type) -> tuple[tuple[str, object], ...]:
    return tuple((one.name, _default(one)) for one in fields(kind))


def _default(one: Field[Any]) -> object:
    if one.default_factory is not MISSING:
        return one.default_factory()
    return one.default


def _record(value: dict[str, Any]) -> Any:
    kind = value.pop(TYPE, None)
    match kind:
        case None:
            return value
        case "mapping":
            return dict(value["items"])
        case "bytes":
            return base64.b64decode(value["base64"])
        case "datetime":
            return datetime.fromisoformat(value["iso"])
        case "status":
            return ServerStatus(value["value"])
        case "error":
            return _error(value)
    return RECORDS[kind](**value)


def _error(value: dict[str, Any]) -> errors.PileusError:
    name, message = value.pop("kind"), value.pop("message")
    kind = ReplyLostError if name == ReplyLostError.__name__ else getattr(errors, name)
    if not issubclass(kind, errors.PileusError):
        raise TypeError(name)
    made: errors.PileusError = kind(message, **value)
    return made
