"""Names and ids: what a deployment may be called, what its servers are called, and how things are numbered."""

from __future__ import annotations

import hashlib
import re
import secrets

from pileus.errors import BadResourceNameError

LONGEST_HOST_NAME = 63
"""Characters in one label of a host name (RFC 1123, section 2.1, by way of RFC 1034)."""

RANDOM_LENGTH = 12
"""Characters of the random end of a server's name."""

LONGEST_RESOURCE_NAME = LONGEST_HOST_NAME - 1 - (RANDOM_LENGTH + 1)
"""What a server's name leaves for the resource name: a dash and the random end take 13, one is kept in reserve."""

_ALLOWED = re.compile(r"[A-Za-z0-9_\- ]+")
_MARK_LENGTH = 4


def check_resource_name(name: str) -> str:
    """Give the name back when a deployment may be called so.

    Allowed are ASCII letters, digits, `_`, `-` and spaces, 1 to 49 characters, at least one of them a letter or digit. A
    space at either end is refused, as some clouds cut it off and others do not.

    Raises:
        BadResourceNameError: the name is not allowed; the message says which character or what length is at fault.
    """
    hint = f"use 1 to {LONGEST_RESOURCE_NAME} ASCII letters, digits, '_', '-' and spaces, such as 'my-lab_2'"
    if not isinstance(name, str):
        raise BadResourceNameError(
            f"a resource name is text, not {type(name).__name__}", setting="resource_name", hint=hint
        )
    problem = _problem_of(name)
    if problem:
        raise BadResourceNameError(f"the resource name {_shown(name)} {problem}", setting="resource_name", hint=hint)
    return name


def _problem_of(name: str) -> str:
    if not name:
        return "is empty"
    if not _ALLOWED.fullmatch(name):
        bad = "".join(dict.fromkeys(character for character in name if not _ALLOWED.fullmatch(character)))
        return f"contains disallowed characters: {_shown(bad)}"
    if len(name) > LONGEST_RESOURCE_NAME:
        return f"has {len(name)} characters, more than {LONGEST_RESOURCE_NAME}"
    if name != name.strip():
        return "begins or ends with a space"
    if not re.search("[A-Za-z0-9]", name):
        return "has neither a letter nor a digit"
    return ""


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 80 else text[:77] + "...")


def server_name(resource_name: str, random12: str = "") -> str:
    """Make a server's name: the resource name as a host name, a dash, and twelve random characters.

    The result is a lower-case RFC 1123 label of at most 63 characters. Where the resource name cannot be kept as it is
    (`My lab_1`), four characters of its checksum stand before the random end, so that servers of `my lab_1` and `my-lab-1`
    do not look alike to a person. No code may conclude anything from a name: ownership is the deployment id.

    Args:
        resource_name: one that `check_resource_name` accepts.
        random12: twelve characters of `0-9a-z`; drawn here when empty.

    Raises:
        BadResourceNameError: as `check_resource_name`.
        ValueError: `random12` is not of that form.
    """
    check_resource_name(resource_name)
    random12 = random12 or secrets.token_hex(RANDOM_LENGTH // 2)
    if not re.fullmatch(f"[0-9a-z]{{{RANDOM_LENGTH}}}", random12):
        raise ValueError(f"random12 must be {RANDOM_LENGTH} characters of 0-9a-z, not {random12!r}")
    host = re.sub("[^a-z0-9]", "-", resource_name.lower()).strip("-")
    if host == resource_name:
        return f"{host}-{random12}"
    mark = hashlib.sha256(resource_name.encode()).hexdigest()[:_MARK_LENGTH]
    room = LONGEST_HOST_NAME - (1 + _MARK_LENGTH) - (1 + RANDOM_LENGTH)
    return f"{host[:room].rstrip('-')}-{mark}-{random12}"


def deployment_id() -> str:
    """Draw a deployment's id: `d-` and 16 hexadecimal digits. All have one length, so none is the beginning of another."""
    return f"d-{secrets.token_hex(8)}"


def intent_id() -> str:
    """Draw an intent's id: `i-` and 16 hexadecimal digits."""
    return f"i-{secrets.token_hex(8)}"
