"""The machine that we run on, as a server: commands are run and files copied here, without SSH and without the cloud."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import secrets
import shlex
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pileus.errors import BadCIDRError, CommandError, TransferError, UnsupportedError, UsageError
from pileus.models import CommandResult, Flavor, network_of
from pileus.policy import space
from pileus.server import AsyncServer
from pileus.state import ServerRow

if TYPE_CHECKING:
    from pileus.core.link import Link
    from pileus.provider import AsyncProvider

LOCALHOST = "localhost"


def localhost_server(
    provider: AsyncProvider, image: str, post_creation_script: bytes, config_files: str, cidr: str | None
) -> AsyncServer:
    """Describe this machine."""
    flavor = Flavor(
        id=LOCALHOST,
        name=LOCALHOST,
        cores=os.cpu_count() or 1,
        ram=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        disk=shutil.disk_usage(Path.home() if Path.home().exists() else Path("/")).total // 10**9,
        architecture=platform.machine(),
    )
    core = provider._core
    row = ServerRow(
        id=LOCALHOST,
        intent_id="",
        name=socket.gethostname(),
        os=image,
        image_id="",
        user_name=core.journal.owner.partition("@")[0],
        flavor=asdict(flavor),
        disk_gb=flavor.disk,
        ip=own_address(cidr),
        ssh_port=22,
        script=post_creation_script,
        config_files=config_files,
        created=core.journal.now_s(),
        status="ready",
        boot_id=core.journal.boot_id,
    )
    return LocalhostServer(provider, row)


def own_address(cidr: str | None) -> str:
    """This machine's address, in that network if one is given. Nothing is sent.

    Raises:
        BadCIDRError: it has none there.
    """
    if cidr is None:
        return _source_address("192.0.2.1") or "127.0.0.1"  # an address for documentation: only the route is looked up
    network = network_of(cidr, "cidr")
    address = _source_address(str(network[1]))
    if not address or address not in {str(a) for a in (network_of(f"{address}/32", "cidr")[0],) if a in network}:
        raise BadCIDRError(
            f"this machine has no address in {cidr}", setting="cidr", hint="give the network of one of its interfaces"
        )
    return address


def _source_address(towards: str) -> str:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((towards, 9))
        return str(probe.getsockname()[0])
    return ""


class LocalhostServer(AsyncServer):
    """This machine. Its room is accounted for within this object only; it cannot be destroyed."""

    def __init__(self, provider: AsyncProvider, row: ServerRow) -> None:
        super().__init__(provider, row)
        self._link = cast("Link", _Here(LocalRemote()))
        self._taken = [0, 0, 0]

    async def allocate(self, cores: float, ram_mb: int, disk_gb: int) -> bool:
        """Take room, if there is enough."""
        wanted = self._wanted(cores, ram_mb, disk_gb)
        if space.how_many(*self._free(), *wanted) < 1:
            return False
        self._taken = [taken + want for taken, want in zip(self._taken, wanted, strict=True)]
        return True

    async def release(self, cores: float, ram_mb: int, disk_gb: int) -> bool:
        """Give room back."""
        wanted = self._wanted(cores, ram_mb, disk_gb)
        if any(want > taken for taken, want in zip(self._taken, wanted, strict=True)):
            return False
        self._taken = [taken - want for taken, want in zip(self._taken, wanted, strict=True)]
        return True

    async def has_space_for(self, cores: float, ram_mb: int, disk_gb: int) -> int:
        """How many pieces of work of that size fit."""
        return 0 if self.is_bad else space.how_many(*self._free(), *self._wanted(cores, ram_mb, disk_gb))

    def _free(self) -> tuple[int, int, int]:
        nano, ram, disk = self._wanted(self.flavor.cores, self.flavor.ram, self.disk)
        return nano - self._taken[0], ram - self._taken[1], disk - self._taken[2]

    async def alive(self, check_ssh: bool = False) -> bool:
        """True: we run on it."""
        return True

    async def destroy(self) -> None:
        """Refuse.

        Raises:
            UsageError: always.
        """
        raise UsageError("the machine that this program runs on is not destroyed", operation="destroy")

    @contextlib.asynccontextmanager
    async def _using(self) -> AsyncIterator[None]:
        yield

    async def _change(self, **columns: Any) -> None:
        self._row = replace(self._row, **columns)


class _Here:
    """Takes the place of a `Link`: there is nothing to connect to."""

    connected = False

    def __init__(self, remote: LocalRemote) -> None:
        self._remote = remote

    async def ready(self, timeout: float | None = None, *, final: bool = False) -> LocalRemote:
        return self._remote

    async def aclose(self) -> None:
        pass

    def drop(self) -> None:
        pass


class LocalRemote:
    """What `pileus.remote.Remote` does, done on this machine."""

    async def run(
        self,
        command: str,
        *,
        check: bool = True,
        timeout: float | None = None,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        on_stdout: Callable[[bytes], None] | None = None,
        on_stderr: Callable[[bytes], None] | None = None,
        background: bool = False,
    ) -> CommandResult:
        """Run a command in a shell, in a process group of its own, which ends with it when this is cancelled."""
        if background:
            return await self._start(command, env)
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            command,
            stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=Path.home(),
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        out, err = bytearray(), bytearray()
        assert process.stdout is not None
        assert process.stderr is not None
        timed_out = False
        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(
                    _feed(process, stdin), _pump(process.stdout, out, on_stdout), _pump(process.stderr, err, on_stderr)
                )
                await process.wait()
        except TimeoutError:
            timed_out = True
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        code = process.returncode or 0
        result = CommandResult(
            command,
            bytes(out),
            bytes(err),
            None if timed_out or code < 0 else code,
            signal.Signals(-code).name.removeprefix("SIG") if code < 0 and not timed_out else None,
            time.monotonic() - began,
        )
        if timed_out or (check and not result.ok):
            what = f"was stopped after {timeout:g} s" if timed_out else f"failed with {result.exit_signal or code}"
            tail = "\n".join(result.stderr.splitlines()[-10:])
            raise CommandError(f"{command[:200]!r} {what}{': ' + tail if tail else ''}", result=result, host=LOCALHOST)
        return result

    async def _start(self, command: str, env: Mapping[str, str] | None) -> CommandResult:
        job_id = secrets.token_hex(8)
        jobs = Path.home() / ".pileus" / "jobs" / job_id
        jobs.mkdir(parents=True, mode=0o700)
        (jobs / "command").write_text(command)
        quoted = {name: shlex.quote(str(jobs / name)) for name in ("pid", "stdout", "stderr", "status")}
        inner = f"/bin/sh -c {shlex.quote(command)}; echo $? > {quoted['status']}.new; mv {quoted['status']}.new {quoted['status']}"
        starter = (
            f"setsid /bin/sh -c {shlex.quote(inner)} </dev/null >{quoted['stdout']} 2>{quoted['stderr']} & "
            f"echo $! >{quoted['pid']}"
        )
        await self.run(starter, env=env)
        return CommandResult(command, exit_status=None, job_id=job_id)

    async def create_file(self, content: str | bytes, dest: str, mode: int | None = None) -> None:
        """Make a file, atomically, with the directories above it."""
        data = content.encode() if isinstance(content, str) else content
        await asyncio.to_thread(_write, data, _here(dest), mode)

    async def upload_file(self, source: str | os.PathLike[str], dest: str, *, progress: Any = None) -> None:
        """Copy a file or a tree."""
        await asyncio.to_thread(_copy, Path(source), _here(dest))

    async def download_file(self, source: str, dest: str | os.PathLike[str], *, progress: Any = None) -> None:
        """Copy a file or a tree."""
        if not os.path.isdir(os.path.dirname(os.path.abspath(dest))):  # noqa: PTH100,PTH112,PTH120,ASYNC240
            raise TransferError(f"the directory of {dest} does not exist", path=str(dest))
        await asyncio.to_thread(_copy, _here(source), Path(dest))

    async def copy_over(self, files: str) -> None:
        """Copy what `local:remote` tells to; what has the same path on both sides is there already."""
        from pileus.remote import copyspec

        for copy in copyspec.parse(files):
            source, dest = _here(copy.local), _here(copy.remote)
            if source.exists() and source != dest:
                await asyncio.to_thread(_copy, source, dest)

    async def mkdir(self, dir: str) -> None:
        """Make a directory and those above it; `sudo` is tried only where plain rights do not do."""
        try:
            _here(dir).mkdir(parents=True, exist_ok=True)
        except PermissionError:
            quoted = shlex.quote(str(_here(dir)))
            done = await self.run(f"sudo -n mkdir -p {quoted} && sudo -n chown $(id -u):$(id -g) {quoted}", check=False)
            if not done.ok:
                raise UnsupportedError(f"making {dir} needs root, and sudo does not help", operation="mkdir") from None
        except OSError as problem:
            raise TransferError(f"{dir} cannot be made: {problem.strerror}", path=dir) from problem

    async def home_dir(self) -> str:
        """Our home."""
        return str(Path.home())

    async def time_zone(self) -> timezone:
        """Our offset from UTC now."""
        offset = datetime.now().astimezone().utcoffset() or timedelta(0)
        return timezone(offset, "SER")

    async def client(self) -> Any:
        """Refuse: there is no SSH to here."""
        raise UnsupportedError("this machine is not reached by SSH", operation="ssh_client")

    def session(self) -> Any:
        """Refuse: there is no SSH to here."""
        raise UnsupportedError("this machine is not reached by SSH", operation="ssh_session")

    async def aclose(self) -> None:
        """Nothing is open."""


async def _feed(process: asyncio.subprocess.Process, stdin: bytes | None) -> None:
    if process.stdin is not None and stdin is not None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(stdin)
            await process.stdin.drain()
        process.stdin.close()


async def _pump(source: asyncio.StreamReader, kept: bytearray, sink: Callable[[bytes], None] | None) -> None:
    while piece := await source.read(65536):
        if sink is None:
            kept += piece
        else:
            sink(piece)


def _here(path: str) -> Path:
    return Path.home() / Path(path).expanduser()


def _write(data: bytes, dest: Path, mode: int | None) -> None:
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        part = dest.with_name(f".{dest.name}.{secrets.token_hex(4)}")
        part.write_bytes(data)
        if mode is not None:
            part.chmod(mode)
        part.replace(dest)
    except OSError as problem:
        raise TransferError(f"{dest} cannot be written: {problem.strerror}", path=str(dest)) from problem


def _copy(source: Path, dest: Path) -> None:
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        part = dest.with_name(f".{dest.name}.{secrets.token_hex(4)}")
        if source.is_dir():
            shutil.copytree(source, dest, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy2(source, part)
            part.replace(dest)
    except OSError as problem:
        raise TransferError(f"{source} cannot be copied to {dest}: {problem.strerror}", path=str(source)) from problem
