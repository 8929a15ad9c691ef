"""The command line: a thin layer that reads words, calls the library, and shows what came back.

- `app`: the command `pileus`, whose verbs are imported when they are used; errors become exit statuses here.
- `settings`: command line over environment over `config.toml` over defaults.
- `invocation`: what one call of the command shares: its settings, its progress display, the provider.
- `parameters`, `quantities`: options that several verbs take; sizes and durations as people write them.
- `render`, `progress`: tables and JSON for standard output; everything else for standard error.
- `deployment`, `catalogue`, `servers`, `listing`, `run`, `ssh`, `completion`: the verbs by theme.
- `job` does what `run` asks, `transfers` reads `--push` and `--pull`, `output` carries what commands write, `terminal`
  is a person's login, `sshconfig` writes what OpenSSH and Ansible read, `local_view` looks at the state without a
  provider, `loop` runs the library's coroutines, `outcome` makes errors exit statuses.

Nothing here imports asyncio, asyncssh, rich or a driver at its top: `pileus --help` and `pileus list` are to be quick.
"""
