"""What `AsyncProvider` and `AsyncServer` are made of: everything that joins drivers, state, boot, remote and policy.

| module | concept |
|---|---|
| `threads` | pools of daemon threads for blocking drivers |
| `cloud` | one driver, awaited: deadlines, retries of what may be retried, batches |
| `batches` | what is asked for at about the same time goes out together |
| `watcher` | one bulk listing per tick for everything that is waited for |
| `journal` | the deployment's state, awaited; events |
| `spawning` | from the wish for a server to a server that runs |
| `clearing` | destroying, settling what a crash left, tearing down and proving it |
| `deploying` | what a deployment needs besides servers |
| `idle` | letting idle servers go, and keeping the lease of busy ones |
| `localhost` | the machine that we run on, as a server |
"""
