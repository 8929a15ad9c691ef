"""The embedded provider: a server is a process of this machine with a real SSH and SFTP server. No account, no root.

```
driver      LocalDriver, the interface of `pileus.drivers.base`
settings    what the environment and the settings say        host        what this machine has: flavors, image, limits
trees       a server's directory, and how boot scripts find  cards       who runs, as the kernel tells it
calling     the way to the helper, started on demand         helper      the preloaded process that servers are forked from
keeper      one small process for each server: its mark, its end and its clean-up
namespaces  what keeps servers apart       kernel  system calls       processes  /proc, killing without mistakes
machine     a server's first process       boot script, host key, SSH listener
sessions    SSH commands, shells, files    children  their processes
```

`docs/design/0002-local-driver.md` tells why. Importing this loads no SSH library.
"""

from pileus.drivers.local.driver import LocalDriver

__all__ = ["LocalDriver"]
