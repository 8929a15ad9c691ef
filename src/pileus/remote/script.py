r"""The text that runs on a server around every command. Pure: it makes strings, and does no I/O.

What goes over the wire is `exec /bin/sh -c '<script>' pileus '<command>'`. A user's login shell reads that line first, and it
may be anything: so the line has no newline (csh ends a quoted string there), no `'` or `\` within the quotes (fish reads
those), no `!` but before `=` (csh reads history), and no byte that is not printable ASCII. The user's own command may have all of
these; it is written with octal escapes and unfolded by `printf %b`.

How a command ends with its channel: sshd does not end a process when its channel is closed, and as root it passes no signal
on. So a watcher, forked before the command is, reads the channel's standard input, on which nothing is ever sent, and at the end
of file kills whatever is left in the command's session: TERM, then, after a grace, KILL. The command itself takes the place (by
`exec`) of the process that sshd started and waits for, so its exit status or signal is reported by sshd itself and is exact.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from pileus.errors import ConfigError

MAX_COMMAND = 96 * 1024
"""Bytes of a command as it goes over the wire. Linux allows 128 KiB in one argument, and the login shell gets all in one."""

MARK = "pileus-process"
"""Begins the line in which a streaming command tells its process id."""

_SAFE = frozenset(range(0x20, 0x7F)) - frozenset(b"'\\!")
_FOLDED = tuple(chr(byte) if byte in _SAFE else f"\\0{byte:03o}" for byte in range(256))
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# Sets `p` to our pid if /proc is there and is that of our own process namespace, and `g` to our process group.
_WHERE = (
    "m=$$; p=; g=$m; "
    "if [ -r /proc/self/stat ]; then "
    'read -r p l </proc/self/stat; l=${l##*") "}; l=${l#* }; l=${l#* }; g=${l%%" "*}; [ "$p" = $m ] || { p=; g=$m; }; '
    "fi; "
)

# Signals `k` to each of session `m`, but ourselves and those in the list `t`, where it puts them; sets `n` when there was
# anyone at all. Looking in /proc, not at the process group, finds also what `timeout`, or a shell with job control, has put
# into a group of its own. It is repeated, since a process may be forked behind the back of one round.
_SIGNAL = (
    "n=; "
    'if [ -z "$p" ]; then q=group; kill -0 -$m && n=1; '
    'case "$t" in *" $q "*) ;; *) kill -$k -$m; t="$t$q " ;; esac; '
    "else for s in /proc/[0-9]*/stat; do "
    "q=${s#/proc/}; q=${q%/stat}; "
    '{ read -r l <$s; } 2>/dev/null || continue; set -- ${l##*") "}; '
    'if [ "$4" = $m ] && [ "$1" != Z ] && [ $q != "$w" ]; then n=1; '
    'case "$t" in *" $q "*) ;; *) kill -$k $q; t="$t$q " ;; esac; fi; '
    "done; fi; "
)

# Waits for the end of descriptor 3. That comes also after the command's own end, when nothing is to be done: what it has
# left running on purpose stays. The session's number cannot have been given to another process, since we are in it.
_WATCH = (
    'trap "" HUP INT QUIT TERM PIPE; w=; [ -n "$p" ] && read -r w l </proc/self/stat; '
    "while read -r l; do :; done <&3; "
    "kill -0 $m || exit 0; "
    'k=TERM; t=" "; i=0; while [ $i -lt 20 ]; do '
    + _SIGNAL
    + '[ -n "$n" ] || exit 0; i=$((i+1)); sleep 0.1 || sleep 1; done; '
    'k=KILL; i=0; while [ $i -lt 10 ]; do t=" "; '
    + _SIGNAL
    + '[ -n "$n" ] || exit 0; i=$((i+1)); sleep 0.1 || sleep 1; done'
)

# sshd gives every command a session of its own; a server that does not gets one made here (`setsid` keeps the pid unless
# the process leads a group already).
_LEAD = "l=; if [ $g != $m ] && command -v setsid >/dev/null; then l=setsid; fi; "

# The watcher is forked twice: a command that waits for all its children must not find a stranger among them.
_GUARD = "exec 3<&0 </dev/null; ( ( " + _WATCH + " ) >/dev/null 2>&1 & ); "

_UNFOLD = 'c=$(printf %b. "$1"); c=${c%.}; '
"""Unfolds the command; the dot saves newlines at its end from the `$( )`."""


def wire(script: str, *arguments: str | bytes) -> str:
    """The line that hands a script of ours, with arguments, to `/bin/sh`, through whatever login shell.

    The script must keep to what the module's text says; arguments may be anything and arrive folded (see `fold`).

    Raises:
        ConfigError: it is too long for a command line, or an argument has a NUL.
    """
    line = "exec /bin/sh -c '" + script + "' pileus" + "".join(f" '{fold(argument)}'" for argument in arguments)
    if len(line) > MAX_COMMAND:
        raise ConfigError(
            f"the command is {len(line):,} bytes long as it is sent, and {MAX_COMMAND:,} is the most",
            setting="command",
            hint="put it into a file with create_file() and run that",
        )
    return line


def fold(text: str | bytes) -> str:
    """Write text for `printf %b`: printable ASCII, without quotes, backslashes but its own, or exclamation marks."""
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    if b"\0" in data:
        raise ConfigError("a command cannot have a NUL character in it", setting="command")
    return "".join(map(_FOLDED.__getitem__, data))


def with_environment(command: str, environment: Mapping[str, str] | None) -> str:
    """Put the variables' export before a command; sshd's own `AcceptEnv` allows next to none.

    Raises:
        ConfigError: a name is no shell variable's name.
    """
    if not environment:
        return command
    for name in environment:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} cannot be the name of an environment variable", setting="env")
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items()) + command


def command_line(command: str) -> str:
    """Run a command with an empty standard input; it ends when the channel does."""
    return wire(_WHERE + _LEAD + _UNFOLD + _GUARD + 'exec $l /bin/sh -c "$c" 3<&-', command)


def fed_command_line(command: str, size: int) -> str:
    """Run a command whose standard input is the first `size` bytes that the channel brings.

    They are put aside in a file without a name first, so that the channel's input stays free to be watched, and
    so that a connection which breaks on the way starts nothing, instead of giving half of the input.
    """
    script = (
        _WHERE + _LEAD + _UNFOLD + "u=$(umask); umask 077; "
        'f=$(mktemp "${TMPDIR:-/tmp}/pileus.XXXXXXXX" || mktemp "$HOME/.pileus.XXXXXXXX") || exit 125; '
        'trap "rm -f $f" EXIT; trap "exit 125" HUP INT TERM; '
        f'head -c {size} >"$f"; [ $(wc -c <"$f") -eq {size} ] || exit 125; '
        'exec 4<"$f"; rm -f "$f"; trap - EXIT HUP INT TERM; umask $u; '
        + _GUARD
        + 'exec $l /bin/sh -c "$c" <&4 3<&- 4<&-'
    )
    return wire(script, command)


def streamed_command_line(command: str) -> str:
    """Run a command that reads the channel's input itself, once it is watched from another channel.

    It tells its process id in a line on standard error, and waits for a line on its input before it begins.
    """
    script = _WHERE + _LEAD + _UNFOLD + f'echo "{MARK} $m" >&2; read -r go || exit 125; exec $l /bin/sh -c "$c"'
    return wire(script, command)


def dialogue_line(command: str) -> str:
    """Run a command whose standard input is the channel's, unwatched: it must end by itself when a read meets the end of it."""
    return wire(_UNFOLD + 'eval "$c"', command)


def watch_line(process_id: int) -> str:
    """Watch over a streaming command from a channel of its own: when this one ends, so does that."""
    watch = _WATCH.replace('[ -n "$p" ] && read -r w l </proc/self/stat', "w=$$")
    return wire(_WHERE + f"m={process_id}; echo watching; exec 3<&0 >/dev/null 2>&1; " + watch)


def job_line(command: str, job_id: str) -> str:
    """Start a command that outlives its connection, with its papers in `~/.pileus/jobs/<job id>`.

    The process in `pid` is one of ours that lives as long as the command, leads a session with it, and writes its exit
    status (128 + n for signal n) to `status`, at once and whole, at its end.
    """
    keeper = (
        'echo $$ >"$2/pid.new"; mv "$2/pid.new" "$2/pid"; '
        'trap "" HUP; /bin/sh -c "$1" </dev/null >"$2/stdout" 2>"$2/stderr"; '
        'echo $? >"$2/status.new"; mv "$2/status.new" "$2/status"'
    )
    script = (
        _UNFOLD + f'd=$HOME/.pileus/jobs/{job_id}; (umask 077; mkdir -p "$d") || exit 1; '
        'printf %s "$c" >"$d/command" || exit 1; l=; if command -v setsid >/dev/null; then l=setsid; fi; '
        '$l /bin/sh -c "$(printf %b "$2")" pileus "$c" "$d" </dev/null >/dev/null 2>&1 & '
        'i=0; until [ -s "$d/pid" ]; do kill -0 $! 2>/dev/null || [ -s "$d/pid" ] || exit 1; sleep 0.01 || sleep 1; done'
    )
    return wire(script, command, keeper)
