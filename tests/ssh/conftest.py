import contextlib
import os
import pwd
from pathlib import Path

import psutil
import pytest

from pileus.remote import Remote

from .places import SSHD, Place, until


def login_shell() -> str:
    """Our own, which sshd starts for every command; a user who is not on record has none."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_shell
    except KeyError:
        return ""


WHY_NOT = (
    "OpenSSH's sshd is not installed on this machine"
    if SSHD is None
    else "this user's login shell lets nobody in, and sshd can run nothing"
    if Path(login_shell() or "nologin").name in ("nologin", "false")
    else ""
)
NO_SSHD = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
BOTH = [pytest.param("openssh", marks=NO_SSHD), "asyncssh"]


@pytest.fixture(scope="session", params=BOTH)
def shared_place(request, tmp_path_factory):
    place = Place(request.param, tmp_path_factory.mktemp(request.param))
    try:
        yield place.start()
    finally:
        place.stop()


@pytest.fixture
def place(shared_place):
    """A running server that tests share; each test must leave nothing running on it."""
    yield shared_place
    until(lambda: not left_on(shared_place), "the commands of this test are gone")


def left_on(place):
    with contextlib.suppress(psutil.Error):
        return [process for process in place.running("") if "sshd" not in process.name()]
    return []


@pytest.fixture
async def remote(place):
    async with Remote(place.endpoint()) as remote:
        yield remote


@pytest.fixture(params=BOTH)
def new_place(request, tmp_path):
    """A server of the test's own, not yet started."""
    place = Place(request.param, tmp_path)
    yield place.prepare()
    place.stop()


@pytest.fixture
def sshd(tmp_path):
    """An OpenSSH server of the test's own, not yet started."""
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    place = Place("openssh", tmp_path)
    yield place.prepare()
    place.stop()
