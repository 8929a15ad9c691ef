"""The watchdog on the server that ends it when nobody renews its lease."""

from __future__ import annotations

from shlex import quote

from pileus.boot import shell
from pileus.boot.plan import BootPlan, Paths, whole_seconds

_BODY = """\
lease_is_valid() {
  case $1 in '' | *[!0-9]* | ????????????????*) return 1 ;; esac
}

read_lease() {
  # Whoever renews writes in place: what is empty or torn is read as "still the old one".
  read -r line 2>/dev/null <"$lease"
  if lease_is_valid "$line"; then end=$line; fi
}

is_busy() {
  for file in "$home"/.pileus/jobs/*/pid; do
    # A job with a status is over; its pid may be another's by now.
    if [ ! -f "$file" ] || [ -e "${file%pid}status" ]; then continue; fi
    pid='' started=''
    read -r pid started 2>/dev/null <"$file"
    case $pid in '' | 0* | *[!0-9]*) continue ;; esac
    if kill -0 "$pid" 2>/dev/null && is_same "$pid" "$started"; then return 0; fi
  done
  return 1
}

is_same() {
  # Where the job wrote down when its process began (field 22 of stat), another with its pid is told apart.
  if [ -z "$2" ] || ! read -r stat 2>/dev/null <"/proc/$1/stat"; then return 0; fi
  expected=$2
  # shellcheck disable=SC2086 # splitting is meant
  set -- ${stat##*) }
  [ "${20:-}" = "$expected" ]
}

watch() {
  read_uptime
  end=$((now + lease_s)) busy_until=0
  while :; do
    read_uptime
    read_lease
    if is_busy; then
      busy_until=$((now + lease_s))
    elif [ "$now" -gt "$end" ] && [ "$now" -gt "$busy_until" ]; then
      # Read twice: digits of two values, seen while one is written over the other, do not come out the same again.
      before=$end
      read_lease
      if [ "$before" = "$end" ]; then end_server; fi
    fi
    sleep "$poll_s"
  done
}

start() {
  if [ ! -d "${lease%/*}" ]; then mkdir -p "${lease%/*}" || return 1; fi
  read_uptime
  echo "$((now + lease_s))" >"$lease" && own "$lease" || return 1
  begin_watch
}

case ${1:-} in
  watch) watch ;;
  *) start ;;
esac
"""

_IN_TREE = """\
own() { :; }

end_server() {
  if power_off; then exit 0; fi
}

"""

_ON_MACHINE = """\
own() { [ -z "$group" ] || chown "$user:$group" "$1"; }

end_server() {
  power_off
  # Whatever holds it up (a stuck unit, a full disk) had two minutes.
  sleep 120
  poweroff -f
}

"""

_BEGIN_DETACHED = """\
  # Ignored from here on, so that a hang-up between the fork and setsid does not reach it.
  trap '' HUP
  if command -v setsid >/dev/null 2>&1; then
    setsid sh "$0" watch </dev/null >/dev/null 2>&1 &
  else
    sh "$0" watch </dev/null >/dev/null 2>&1 &
  fi
"""

_BEGIN_AS_UNIT = """\
  # A unit of its own is not ended with the one that runs user-data, and comes back when it is killed.
  if [ -d /run/systemd/system ] && command -v systemd-run >/dev/null 2>&1 &&
    systemd-run --quiet --unit=pileus-lease --property=Restart=on-failure sh "$0" watch >/dev/null 2>&1; then
    return 0
  fi
"""


def poll_seconds(lease_s: int) -> int:
    """How often the watchdog looks: ten times a lease, but no oftener than each second and no rarer than each fifth."""
    return max(1, min(5, lease_s // 10))


def watchdog(plan: BootPlan) -> str:
    """Render the watchdog: `sh FILE` arms the lease and begins to watch, detached; `sh FILE watch` watches.

    The server is ended once its uptime passed the second in the lease file and no background job of the login user runs;
    a job keeps it for another lease after its end, since its results were not fetched yet.
    """
    lease_s = whole_seconds(plan.lease_s)
    paths = Paths(plan.target)
    tree = bool(plan.target.root)
    begin = _BEGIN_DETACHED if tree else _BEGIN_AS_UNIT + _BEGIN_DETACHED
    return "".join(
        (
            "# Ends this server when nobody renews its lease.\n",
            "" if tree else f"user={quote(plan.user_name)}\n",
            f"lease={quote(paths.lease)} lease_s={lease_s} poll_s={poll_seconds(lease_s)}\n",
            shell.UPTIME,
            shell.find_home(plan.target, paths.home(plan.user_name)),
            shell.power_off(plan.target),
            _IN_TREE if tree else _ON_MACHINE,
            f"begin_watch() {{\n{begin}}}\n\n",
            "find_home\n",
            _BODY,
        )
    )
