"""Tell whether this interpreter can build the project's environment; also runs on Pythons that are too old for the rest."""

import sys

NEEDED = (3, 11)


def problem():
    """What is wrong with this interpreter and what to do, or an empty string."""
    if sys.version_info < NEEDED:
        return (
            "Pileus needs Python %d.%d or newer, and %s is %d.%d.%d.\n"
            "  try: make PYTHON=python3.12 ..., with any newer one that is installed"
            % (NEEDED + (sys.executable,) + tuple(sys.version_info[:3]))
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        # Debian and Ubuntu leave both, or ensurepip alone, out of their python3 package.
        return "%s cannot make virtual environments.\n  try: apt-get install python3-venv" % sys.executable
    return ""


if __name__ == "__main__":
    found = problem()
    if found:
        sys.stderr.write(found + "\n")
        sys.exit(1)
