"""Pieces of `sh` that the user-data and the later commands share."""

from __future__ import annotations

from shlex import quote

from pileus.models import BootTarget

UPTIME = """\
read_uptime() {
  # Not the wall clock: that one jumps when it is first set.
  if read -r now _ 2>/dev/null </proc/uptime; then now=${now%%.*}; else now=$(date +%s); fi
}
"""

_RELOAD_SSHD = """\
reload_sshd() {
  # try-reload-or-restart leaves a stopped unit alone: where a socket starts sshd, it reads the new key anyway.
  if [ -d /run/systemd/system ] && command -v systemctl >/dev/null 2>&1; then
    for unit in ssh.service sshd.service; do
      systemctl cat "$unit" >/dev/null 2>&1 && systemctl try-reload-or-restart "$unit" && return 0
    done
  fi
  if command -v service >/dev/null 2>&1; then
    for unit in ssh sshd; do service "$unit" reload >/dev/null 2>&1 && return 0; done
  fi
  for file in /run/sshd.pid /var/run/sshd.pid; do
    if read -r pid 2>/dev/null <"$file"; then kill -HUP "$pid" && return 0; fi
  done
  echo 'found no SSH server to reload' >&2
  return 1
}
"""

_POWER_OFF = """\
power_off() {
  if [ -d /run/systemd/system ] && systemctl poweroff; then return 0; fi
  shutdown -h now || poweroff || halt -p
}
"""


def reload_sshd(target: BootTarget) -> str:
    """Define `reload_sshd`. In a tree without a command of its own there is nothing to reload."""
    if target.reload_sshd or target.root:
        return _function("reload_sshd", target.reload_sshd or ":")
    return _RELOAD_SSHD


def power_off(target: BootTarget) -> str:
    """Define `power_off`. In a tree without a command of its own it fails: the host's power is never meant."""
    if target.power_off:
        return _function("power_off", target.power_off)
    return _function("power_off", "echo 'nothing to power off here' >&2; exit 1") if target.root else _POWER_OFF


def keygen(target: BootTarget) -> str:
    """Define `keygen`, which makes an ed25519 key pair at `$1` and `$1.pub`."""
    command = target.keygen or 'ssh-keygen -q -t ed25519 -N "" -C pileus -f "$1" </dev/null'
    return _function("keygen", command)


def show_line(target: BootTarget, path: str) -> str:
    """Print the only line of a file; in a tree without starting a program for it."""
    return f'read -r line <{path} && printf "%s\\n" "$line"' if target.root else f"cat {path}"


def _function(name: str, command: str) -> str:
    """A function that runs a command of the target's in a subshell, which that command may leave or change."""
    return f"{name}() {{\n(\n{command}\n)\n}}\n"


def as_root(target: BootTarget, script: str) -> str:
    """Have a script run as root on a real machine, by `sudo -n` where the login user is another; as we are in a tree."""
    if target.root:
        return script
    return f"""\
script={quote(script)}
if [ "$(id -u)" = 0 ]; then exec sh -c "$script"; fi
if command -v sudo >/dev/null 2>&1; then exec sudo -n sh -c "$script"; fi
echo 'this needs root, or sudo without a password' >&2
exit 1
"""


def find_home(target: BootTarget, home: str) -> str:
    """Define `find_home`, which sets `home` and `group` of `$user` or fails; `home` is where it is in a tree."""
    if target.root:
        return f"find_home() {{ home={quote(home)}; }}\n"
    return """\
find_home() {
  while IFS=: read -r name _ _ group _ home _; do
    if [ "$name" = "$user" ]; then return 0; fi
  done <<END
$(getent passwd "$user" 2>/dev/null || cat /etc/passwd)
END
  home='' group=''
  return 1
}
"""
