"""One job on one server: spawn, send, run, fetch, and leave nothing behind."""

import sys
import tempfile
from pathlib import Path

from pileus import CommandError, PileusError, Provider


def main() -> int:
    """Sort a file on a local server and print the result."""
    with tempfile.TemporaryDirectory() as place, Provider("local", "first-steps", Path(place, "state")) as provider:
        numbers, result = Path(place, "numbers.txt"), Path(place, "sorted.txt")
        numbers.write_text("3\n1\n2\n")
        try:
            provider.deploy()
            flavor = provider.cheapest_server_flavor(cores=1, ram_mb=100)
            server = provider.spawn("", "", flavor, ttd=600)
            server.wait_until_ready()
            server.upload_file(numbers, "numbers.txt")
            server.run_cmd("sort -n numbers.txt > sorted.txt")
            server.download_file("sorted.txt", result)
            print(result.read_text(), end="")
        except CommandError as error:
            print(f"the job failed: {error.result.stderr}", file=sys.stderr)
            return 1
        except PileusError as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            provider.tear_down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
