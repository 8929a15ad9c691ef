"""The user-data: the script that turns a fresh machine into one of ours.

Each step is a function; what it says on its way to failing becomes its reason in the file `failed`, and the next step is
done all the same: a server whose FUSE could not be set up shall still have its lease. The sentinel comes last, and only
when no step failed.

Processes are what this costs: on a server that starts in some milliseconds, each `chmod`, `grep` or subshell more is seen in
the time to its readiness. So modes come from the umask, and files are searched only where they have been before.
"""

from __future__ import annotations

from shlex import quote

from pileus.boot import lease, shell
from pileus.boot.plan import BootPlan, Paths

_HEAD = """\
fail() {
  umask 022 # whoever waits is the login user, and is to read it
  reason=$(cat "$run/step" 2>/dev/null)
  printf '%s: %s\\n' "$1" "${reason:-no reason given}" >>"$run/failed"
  printf 'pileus: boot failed: %s: %s\\n' "$1" "$reason" >&2
  tell_console "$1" "$reason"
  failed=yes
}

step() {
  umask 022
  "$1" >"$run/step" 2>&1 || fail "$1"
}

prepare() {
  for file in "$run/failed" "$run/ready"; do
    if [ -e "$file" ]; then rm -f "$file" || return 1; fi
  done
}
"""

_STEPS = """\
host_key() {
  key=$root/etc/ssh/ssh_host_ed25519_key
  if [ -e "$key.pub" ]; then rm -f "$key.pub" || return 1; fi
  printf '%s\\n' "$host_public_key" >"$key.pub" || return 1
  umask 077
  # The private half is what others look for: it comes last, and whole.
  printf '%s\\n' "$host_private_key" >"$key.new" && mv -f "$key.new" "$key" && relabel "$root/etc/ssh" || return 1
  offer "$root/etc/ssh/sshd_config" && reload_sshd
}

offer() {
  # An sshd whose configuration lists its keys offers no other; the line goes first, where no Match block can be open.
  hostkey='^[[:space:]]*HostKey[[:space:]]'
  if [ -s "$1" ] && grep -qi "$hostkey" "$1" && ! grep -qi "$hostkey.*/ssh_host_ed25519_key" "$1"; then
    { printf 'HostKey %s\\n' "$key" && cat "$1"; } >"$1.new" && cat "$1.new" >"$1" && rm -f "$1.new"
  fi
}

authorized_key() {
  if ! find_home; then unknown_user; return 1; fi
  file=$home/.ssh/authorized_keys
  if [ ! -d "$home" ]; then mkdir -p "$home" && own "$home" || return 1; fi
  umask 077
  if [ -d "$home/.ssh" ]; then chmod 700 "$home/.ssh"; else mkdir "$home/.ssh"; fi || return 1
  if [ -s "$file" ]; then
    chmod 600 "$file" || return 1
    if [ -n "$(tail -c 1 "$file")" ]; then echo >>"$file"; fi
  fi
  if [ ! -s "$file" ] || ! grep -qxF -e "$authorized_key" "$file"; then
    printf '%s\\n' "$authorized_key" >>"$file" || return 1
  fi
  own "$home/.ssh" "$file" && relabel "$home/.ssh"
}

fuse() {
  file=$root/etc/fuse.conf
  if [ ! -s "$file" ] || ! grep -q '^user_allow_other' "$file"; then
    printf '\\nuser_allow_other\\n' >>"$file" || return 1
  fi
  if [ -e "$root/dev/fuse" ]; then chmod 666 "$root/dev/fuse"; fi
}

sudo_without_terminal() {
  directory=$root/etc/sudoers.d
  if [ ! -d "$directory" ]; then return 0; fi
  # A name with a dot in it is not read by sudo: only what visudo has seen gets one without.
  file=$directory/pileus.new
  rm -f "$file" && printf 'Defaults !requiretty\\n' >"$file" && chmod 440 "$file" || return 1
  if command -v visudo >/dev/null 2>&1 && ! visudo -cqf "$file"; then rm -f "$file"; return 1; fi
  mv -f "$file" "$directory/pileus"
}
"""

_LEASE = """\
lease() {
  file=$root/var/lib/pileus/watchdog
  mkdir -p "${file%/*}" && printf '%s' "$watchdog" >"$file" || return 1
  # /run is empty after a reboot: the lease is to be armed anew then.
  if [ -d "$per_boot" ]; then
    printf '#!/bin/sh\\nexec sh %s\\n' "$watchdog_path" >"$per_boot/pileus" && chmod 755 "$per_boot/pileus" || return 1
  fi
  sh "$file"
}
"""

_SENTINEL = """\
sentinel() {
  # It has no content: to appear is one act, so that nobody sees half of it.
  : >"$run/ready"
}
"""

_IN_TREE = """\
tell_console() { :; }

own() { :; }

relabel() { :; }

unknown_user() { :; }

set_host_name() {
  printf '%s\\n' "$host_name" >"$root/etc/hostname"
}
"""

_ON_MACHINE = """\
tell_console() {
  if [ -w /dev/console ]; then printf 'pileus: boot failed: %s: %s\\n' "$1" "$2" 2>/dev/null >/dev/console; fi
}

own() { chown "$user:$group" "$@"; }

relabel() {
  if command -v restorecon >/dev/null 2>&1; then restorecon -R "$1" >/dev/null 2>&1 || :; fi
}

set_host_name() {
  if [ "$(uname -n)" = "$host_name" ]; then return 0; fi
  # Without its line in hosts, sudo looks the new name up for a while, each time.
  printf '127.0.1.1 %s\\n' "$host_name" >>/etc/hosts
  if [ -d /run/systemd/system ] && hostnamectl set-hostname "$host_name" 2>/dev/null; then return 0; fi
  if printf '%s\\n' "$host_name" >/etc/hostname; then hostname "$host_name" 2>/dev/null || :; fi
}

unknown_user() {
  users=''
  while IFS=: read -r name _ uid _ _ _ login_shell; do
    case $login_shell in */nologin | */false | */sync | '') continue ;; esac
    if [ "$uid" = 0 ] || { [ "$uid" -ge 1000 ] && [ "$uid" -lt 65000 ]; }; then users="$users $name"; fi
  done </etc/passwd
  echo "this image has no user $user; it has:$users" >&2
}
"""

_ALWAYS = ("prepare", "host_key", "authorized_key", "set_host_name", "fuse", "sudo_without_terminal")


def render(plan: BootPlan) -> bytes:
    """Give the user-data for one server: a `#!/bin/sh` script, well under the 16 KB that clouds take.

    On a real machine it is run as root; in a tree, as whoever owns the tree, and it touches nothing outside of it. It may
    run twice. It has the private host key in it, so it is a secret until that key is replaced. The key is in no process's
    arguments or environment.
    """
    paths = Paths(plan.target)
    tree = bool(plan.target.root)
    values = {
        "root": plan.target.root,
        "run": paths.run,
        **({} if tree else {"user": plan.user_name}),
        "host_name": plan.host_name.strip(),
        "authorized_key": plan.authorized_key.strip(),
        "host_public_key": plan.host_public_key.strip(),
        "host_private_key": plan.host_private_key.strip("\n"),
        "failed": "no",
    }
    steps = list(_ALWAYS)
    parts = [_HEAD, _IN_TREE if tree else _ON_MACHINE]
    parts += [shell.find_home(plan.target, paths.home(plan.user_name)), shell.reload_sshd(plan.target), _STEPS]
    if plan.lease_s:
        # What per-boot runs is a file of its own: the path stands in it as a shell reads it.
        values |= {
            "watchdog": lease.watchdog(plan),
            "watchdog_path": quote(paths.watchdog),
            "per_boot": paths.per_boot,
        }
        parts.append(_LEASE)
        steps.append("lease")
    script = "\n".join(
        (
            "#!/bin/sh",
            "# Written by Pileus: makes this machine ready to be used.",
            "umask 022",
            *(f"{name}={quote(value)}" for name, value in values.items()),
            "",
            *parts,
            _SENTINEL,
            'if [ ! -d "$run" ] || [ ! -d "$root/etc/ssh" ]; then mkdir -p "$run" "$root/etc/ssh"; fi',
            *(f"step {name}" for name in steps),
            'if [ "$failed" = no ]; then step sentinel; fi',
            '[ "$failed" = no ]',
            "",
        )
    )
    return script.encode(errors="surrogateescape")
