"""A genuine SSH and SFTP server without OpenSSH, run as a process: `python asyncssh_server.py HOME HOST_KEY AUTHORIZED_KEYS`.

Prints its port. Behaves as sshd does: a command gets a session of its own, and is left alone when its channel is closed, but for
the end of its standard input.
"""

import asyncio
import contextlib
import os
import signal
import sys

import asyncssh


async def handle(process):
    child = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", process.command, stdin=-1, stdout=-1, stderr=-1, start_new_session=True
    )

    async def feed():
        try:
            while data := await process.stdin.read(65536):
                child.stdin.write(data)
                await child.stdin.drain()
        except (OSError, asyncssh.Error):
            pass
        finally:
            child.stdin.close()

    async def drain(source, sink):
        with contextlib.suppress(OSError, asyncssh.Error):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()

    feeding = asyncio.create_task(feed())
    draining = [
        asyncio.create_task(drain(child.stdout, process.stdout)),
        asyncio.create_task(drain(child.stderr, process.stderr)),
    ]
    status = await child.wait()
    child.stdin.close()
    await asyncio.gather(*draining)
    feeding.cancel()
    if status < 0:
        process.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))
    else:
        process.exit(status)


class Server(asyncssh.SSHServer):
    def connection_requested(self, dest_host, dest_port, orig_host, orig_port):
        return True  # others are reached through this one


async def main(home, host_key, authorized_keys):
    os.environ["HOME"] = home
    os.chdir(home)
    acceptor = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=Server,
        server_host_keys=[host_key],
        authorized_client_keys=authorized_keys,
        process_factory=handle,
        sftp_factory=asyncssh.SFTPServer,
        encoding=None,
        config=None,
    )
    print(acceptor.get_port(), flush=True)
    await acceptor.wait_closed()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
