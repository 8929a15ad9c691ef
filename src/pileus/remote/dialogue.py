"""A command that says a line, waits for an answer, and goes on: two steps for the price of one channel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pileus.errors import CommandError
from pileus.models import CommandResult
from pileus.remote import commands, script
from pileus.remote.connections import Pool


async def converse(
    pool: Pool, command: str, answer: Callable[[str], Awaitable[str]], *, check: bool, timeout: float
) -> CommandResult:
    """Run a command, give the first line that it writes to `answer`, and send back what that returns; see `Remote.converse`."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    output = bytearray()
    spoken: asyncio.Future[None] = loop.create_future()

    def take(data: bytes) -> None:
        output.extend(data)
        if b"\n" in data and not spoken.done():
            spoken.set_result(None)

    session = await commands.open_session(pool, script.dialogue_line(command), take, None)
    try:
        async with asyncio.timeout(timeout):
            await asyncio.wait((spoken, session.ended), return_when=asyncio.FIRST_COMPLETED)
            if spoken.done():
                line = bytes(output).partition(b"\n")[0].decode(errors="replace")
                await session.write((await answer(line)).encode() + b"\n")
            await session.ended
    except TimeoutError as problem:
        result = CommandResult(command, bytes(output), bytes(session.output[1]), None, None, loop.time() - begun)
        raise CommandError(
            f"a command on {pool.name} timed out after {timeout:g} s", result=result, host=pool.host
        ) from problem
    finally:
        session.abort()
    session.output[0].extend(output)
    return commands.judge(pool, command, session, loop.time() - begun, check)
