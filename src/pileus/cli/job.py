"""The main job: on servers that fit, send files, run a command, bring results back, and let the servers go."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from pileus.cli import local_view, outcome
from pileus.cli.invocation import Invocation
from pileus.cli.output import Lines, Outlet, Pending
from pileus.cli.progress import Progress
from pileus.cli.quantities import show_duration
from pileus.cli.servers import choose_flavor, deploy_if_needed, describe, external_ip, wanted_size
from pileus.cli.transfers import Pull, Push
from pileus.errors import CommandError, PileusError, ServerFailedError

if TYPE_CHECKING:
    from pileus import AsyncProvider, AsyncServer, CommandResult

STDOUT, STDERR = 1, 2


@dataclass(frozen=True, slots=True)
class Job:
    """What to do, all of it checked as far as it can be before anything is created.

    Attributes:
        pulls: for a server's index and name, what to bring back.
        keep: leave a server that was spawned for this where it is.
        ttd: seconds of idleness after which a server that was spawned for this goes, should we not end it ourselves.
        new: spawn, even if there is room on a server that is there.
        external_ip: whether a new server is reached from outside; None for as it is needed.
        pull_if_ok: bring results back only when the command ended with status 0.
        timeout: seconds that the command may take, None for as long as it likes.
    """

    command: str
    pushes: Sequence[Push] = ()
    pulls: Callable[[int, str], Sequence[Pull]] = lambda index, name: ()
    count: int = 1
    keep: bool = False
    ttd: float = 0.0
    new: bool = False
    external_ip: bool | None = None
    pull_if_ok: bool = False
    timeout: float | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes | None = None


class Runner:
    """Does one job with one provider."""

    def __init__(self, job: Job, provider: AsyncProvider, invocation: Invocation) -> None:
        self._job = job
        self._provider = provider
        self._invocation = invocation
        self._progress: Progress = invocation.progress
        self._lock = asyncio.Lock()
        self._taken: set[str] = set()
        self.reader_left = False
        task = asyncio.current_task()

        def stop() -> None:
            self.reader_left = True
            if task is not None:
                task.cancel()

        self._outlet = Outlet(stop)

    async def run(self) -> int:
        """Do it on all servers at once; gives the worst exit status."""
        try:
            await deploy_if_needed(self._provider, self._invocation)
            if self._job.count == 1:
                statuses = [await self._one(0)]
            else:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._reported(index)) for index in range(self._job.count)]
                statuses = [task.result() for task in tasks]
        except asyncio.CancelledError:
            self._outlet.give_up(1.0)
            if self.reader_left:
                return self._unwritten()
            raise
        except BaseException:
            self._outlet.give_up(1.0)
            raise
        await self._outlet.wait()
        return self._unwritten() if self.reader_left else max(statuses)

    def _unwritten(self) -> int:
        """The exit status when the output could not be written; quiet when it is just that nobody reads it any more."""
        if self._outlet.problem is None:
            return outcome.BROKEN_PIPE
        self._progress.say(f"pileus: error: the output could not be written: {self._outlet.problem.strerror}")
        return outcome.GENERAL

    async def _reported(self, index: int) -> int:
        """One of several: its failure is told at once, and the others go on."""
        try:
            return await self._one(index)
        except PileusError as problem:
            self._progress.say(f"pileus: error: number {index}: {problem}")
            return outcome.exit_status(problem)

    async def _one(self, index: int) -> int:
        async with self._server() as server:
            pulls = self._job.pulls(index, server.name)
            for push in self._job.pushes:
                report = self._progress.transfer(f"sending {push.local} to {server.name}")
                await server.upload_file(push.local, push.remote, progress=report)
            result = await self._command(server, index)
            status = outcome.command_status(result.exit_status, result.exit_signal)
            self._tell(server, result)
            if status == 0 or not self._job.pull_if_ok:
                await self._bring_back(server, pulls, failed=status != 0)
            return status

    # --- its server ---

    @contextlib.asynccontextmanager
    async def _server(self) -> AsyncIterator[AsyncServer]:
        """A server with room for the job; released at the end if it was there before or shall stay, else destroyed."""
        cores, ram_mb = wanted_size(self._invocation.settings)
        room = (cores, ram_mb, self._invocation.settings.disk or 0)
        server = None if self._job.new else await self._find(room)
        if server is not None:
            self._progress.doing(f"using {server.name}, which is there already")
        else:
            server, room = await self._spawn(room)
        found = server.id in self._taken
        try:
            yield server
        except BaseException:
            await self._let_go(server, room, destroy=not found and not self._job.keep)
            raise
        await self._let_go(server, room, destroy=not found and not self._job.keep)

    async def _find(self, room: tuple[float, int, int]) -> AsyncServer | None:
        """Take room on a server of the deployment that fits and works, each of our own count on another one."""
        settings = self._invocation.settings
        fits = re.compile(settings.flavor) if settings.flavor else None
        async with self._lock:
            view = local_view.look(settings)
            ready = {row.id for row in view.servers if row.status == "ready"} if view else set()
            for server in (await self._provider.servers(all=True)).values():
                flavor = server.flavor
                if (
                    server.id not in ready - self._taken
                    or server.is_bad
                    or server.os != settings.os
                    or (settings.user and server.user_name != settings.user)
                    or (fits and settings.flavor not in (flavor.id, flavor.name) and not fits.search(flavor.name))
                    or not await server.allocate(*room)
                ):
                    continue
                if await self._provider.check_server(server.id):
                    self._taken.add(server.id)
                    return server
                await server.release(*room)
        return None

    async def _spawn(self, room: tuple[float, int, int]) -> tuple[AsyncServer, tuple[float, int, int]]:
        """Spawn a server and take room on it before it is ready, so that nobody else can.

        One that will be destroyed at the end is taken whole, so that nobody moves in whom that would hurt.
        """
        settings, job = self._invocation.settings, self._job
        flavor = await choose_flavor(self._provider, settings)
        began = time.monotonic()
        self._progress.doing(f"spawning {flavor.name} ({describe(flavor)})")
        external = external_ip(self._provider, job.external_ip)
        server = await self._provider.spawn(settings.os, settings.user, flavor, settings.disk or 0, job.ttd, external)
        try:
            if not job.keep:
                room = (flavor.cores, flavor.ram, server.disk)
            if not await server.allocate(*room):
                raise ServerFailedError(
                    f"{server.name} was taken before it could be used", server_id=server.id, server_name=server.name
                )
            self._progress.doing(f"booting {server.name}")
            await server.wait_until_ready()
        except BaseException:
            await server.destroy()
            raise
        self._progress.note(f"{server.name} is ready ({flavor.name}) after {show_duration(time.monotonic() - began)}")
        return server, room

    async def _let_go(self, server: AsyncServer, room: tuple[float, int, int], *, destroy: bool) -> None:
        if destroy:
            self._progress.doing(f"destroying {server.name}")
            await server.destroy()
            self._progress.note(f"destroyed {server.name}")
            return
        await server.release(*room)
        lasting = f"until it is idle for {show_duration(server.ttd)}" if server.ttd else "until you destroy it"
        self._progress.note(f"{server.name} stays {lasting}")

    # --- the command ---

    async def _command(self, server: AsyncServer, index: int) -> CommandResult:
        job = self._job
        self._progress.doing(f"running on {server.name}")
        self._progress.plain()
        to_stdout, to_stderr = self._sink(STDOUT, server.name), self._sink(STDERR, server.name)
        try:
            return await server.run_cmd(
                job.command,
                check=False,
                timeout=job.timeout,
                stdin=job.stdin,
                env={**job.environment, "PILEUS_INDEX": str(index), "PILEUS_COUNT": str(job.count)},
                on_stdout=cast("Callable[[bytes], None]", to_stdout.feed),  # what it returns is awaited
                on_stderr=cast("Callable[[bytes], None]", to_stderr.feed),
            )
        except CommandError as problem:  # its time was up; other endings raise nothing
            return problem.result
        finally:
            to_stdout.end()
            to_stderr.end()

    def _sink(self, descriptor: int, name: str) -> Lines | _Raw:
        def write(piece: bytes) -> Pending:
            return self._outlet.write(descriptor, piece)

        return Lines(f"{name} | ", write) if self._job.count > 1 else _Raw(write)

    def _tell(self, server: AsyncServer, result: CommandResult) -> None:
        if result.exit_signal is not None:
            ending = f"was ended by signal {result.exit_signal}"
        elif result.exit_status is None:
            ending = "was stopped at its time limit"
        elif result.exit_status:
            ending = f"ended with status {result.exit_status}"
        else:
            return
        self._progress.note(f"the command on {server.name} {ending}")

    async def _bring_back(self, server: AsyncServer, pulls: Sequence[Pull], *, failed: bool) -> None:
        """Fetch what was asked for; after a failed command a missing result is no surprise, so only a warning."""
        problems: list[PileusError] = []
        for pull in pulls:
            report = self._progress.transfer(f"bringing {pull.remote} from {server.name}")
            try:
                await server.download_file(pull.remote, pull.local, progress=report)
            except PileusError as problem:
                problems.append(problem)
        for missing in problems if failed else problems[1:]:
            self._progress.warn(str(missing))
        if problems and not failed:
            raise problems[0]


class _Raw:
    """Passes pieces on as they are."""

    def __init__(self, write: Callable[[bytes], Pending]) -> None:
        self.feed = write

    def end(self) -> None:
        """Nothing is kept back."""
