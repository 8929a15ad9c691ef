"""The commands that are run on a server over SSH, as text for `sh`.

Each may be repeated. Those that need root on a real machine use `sudo -n` where the login user is not root.
"""

from __future__ import annotations

from shlex import quote

from pileus.boot import shell
from pileus.boot.plan import Paths, whole_seconds
from pileus.models import BootTarget

FAILED = 1
"""Exit status of `wait_for_sentinel` when the boot script failed; standard error says at what."""
TIMED_OUT = 124
"""Exit status of `wait_for_sentinel` when it waited long enough."""


def wait_for_sentinel(target: BootTarget, timeout_s: float | None = None) -> str:
    """Wait for the end of the boot script; returns within 50 ms of it (a second where `sleep` knows no fractions).

    Exit status 0 means ready; `FAILED`, that a step of the boot failed, with `step: reason` on standard error; `TIMED_OUT`,
    that `timeout_s` went by first (None waits for ever; up to a second is added). Needs no root.
    """
    ready, failed = quote(Paths(target).ready), quote(Paths(target).failed)
    begin = check = ""
    if timeout_s is not None:
        begin = f"{shell.UPTIME}read_uptime\nbegun=$now\n"
        check = f"  read_uptime\n  if [ $((now - begun)) -gt {whole_seconds(timeout_s)} ]; then exit {TIMED_OUT}; fi\n"
    return f"""\
{begin}while [ ! -e {ready} ]; do
  if [ -s {failed} ]; then cat {failed} >&2; exit {FAILED}; fi
{check}  sleep 0.02 2>/dev/null || sleep 1
done
"""


def read_failure(target: BootTarget) -> str:
    """Print why the boot failed, a line `step: reason` for each step that did; nothing when none did."""
    failed = quote(Paths(target).failed)
    return f"if [ -e {failed} ]; then cat {failed}; fi\n"


def make_host_key(target: BootTarget) -> str:
    """Make a host key on the server, kept aside and only for root, and print its public line.

    Repeated, it makes another in its place; the key in force stays what it is.
    """
    modes = "" if target.root else ' && chmod 600 "$key" && chmod 644 "$key.pub"'
    script = f"""\
umask 077
key={quote(Paths(target).next_host_key)}
{shell.keygen(target)}\
if [ -e "$key" ] || [ -e "$key.pub" ]; then rm -f "$key" "$key.pub" || exit 1; fi
keygen "$key" >&2{modes} && {shell.show_line(target, '"$key.pub"')}
"""
    return shell.as_root(target, script)


def switch_host_key(target: BootTarget) -> str:
    """Put the key that is aside in force, and print its public line; open connections stay.

    The private half is moved before the public one is emptied, so that one that was interrupted can be told from one that is
    through, and be taken up by the next. Repeated after success it only has sshd read the key again. It fails when no key was made.
    A real sshd reads its key some milliseconds after this returned, so both keys are to be expected until the new one was seen.
    """
    paths = Paths(target)
    script = f"""\
key={quote(paths.host_key)} next={quote(paths.next_host_key)} switched={quote(paths.switched)}
{shell.reload_sshd(target)}\
if [ ! -s "$next.pub" ] && [ ! -e "$switched" ]; then
  echo 'no new host key was made on this server' >&2
  exit 1
fi
if [ -s "$next.pub" ]; then
  if [ -e "$next" ]; then mv -f "$next" "$key" || exit 1; fi
  read -r line <"$next.pub" && printf '%s\\n' "$line" >"$key.pub" && : >"$switched" && : >"$next.pub" || exit 1
fi
reload_sshd >&2 && {shell.show_line(target, '"$key.pub"')}
"""
    return shell.as_root(target, script)


def renew_lease(target: BootTarget, lease_s: float) -> str:
    """Let the lease end `lease_s` seconds (rounded up) from now. Fails where none is armed. Needs no root.

    The file is written in place, as the login user cannot make one in its directory; the watchdog bears an empty or torn read.
    """
    lease = quote(Paths(target).lease)
    return f"""\
{shell.UPTIME}if [ ! -f {lease} ]; then echo 'this server has no lease' >&2; exit 1; fi
read_uptime
echo "$((now + {whole_seconds(lease_s)}))" >{lease}
"""


def power_off(target: BootTarget) -> str:
    """End the server. The connection may be lost before the command has an exit status."""
    return shell.as_root(target, f"{shell.power_off(target)}power_off\n")
