"""Measure, and print a table: `python bench/run.py [--short] [NAME ...]`.

Figures are ratios of things measured side by side in this run, since machines differ and are shared. The short form checks that
everything that is measured still works, with little of it; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import importlib
import platform

from figures import Figure, table

NAMES = ("local", "simulated", "startup")


def main() -> None:
    """Run the chosen benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all when none is given")
    parser.add_argument("--short", action="store_true", help="little of everything")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}")
    found: list[Figure] = []
    for name in chosen.names or NAMES:
        found += importlib.import_module(name).figures(chosen.short)
    print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}\n")
    print(table(found))


if __name__ == "__main__":
    main()
