"""More work than servers: pieces share servers as long as there is room, and idle servers go by themselves."""

import sys
import tempfile
from pathlib import Path

from pileus import PileusError, Provider

PIECES = 4
CORES, RAM_MB = 0.5, 50


def main() -> int:
    """Put pieces of work on as few servers as hold them, and tell how they were packed."""
    with tempfile.TemporaryDirectory() as place, Provider("local", "packing", Path(place, "state")) as provider:
        try:
            provider.deploy()
            placed = [provider.find_or_spawn(CORES, RAM_MB, ttd=60) for _ in range(PIECES)]
            for server in placed:
                server.run_cmd("sleep 0.1")
            for server in set(placed):
                print(f"{server.flavor.cores} cores hold {placed.count(server)} pieces")
                for _ in range(placed.count(server)):
                    server.release(CORES, RAM_MB, 0)
        except PileusError as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            provider.tear_down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
