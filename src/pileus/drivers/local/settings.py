"""What the environment and the settings say about the local provider. Settings win over the environment."""

from __future__ import annotations

import math
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pileus.errors import ConfigError

ENVIRONMENT = {
    "dir": "PILEUS_LOCAL_DIR",
    "overcommit": "PILEUS_LOCAL_OVERCOMMIT",
    "isolation": "PILEUS_LOCAL_ISOLATION",
    "helper_idle": "PILEUS_LOCAL_HELPER_IDLE",
}
"""Setting to environment variable."""

LEVELS = ("namespaces", "subreaper", "marker")
"""How servers can be kept apart, the best first."""


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """The provider's settings, checked.

    Attributes:
        directory: where the servers' trees are made; absolute.
        overcommit: how many times the machine's cores and memory may be given away.
        isolation: `auto` for the best that the system allows, or one of `LEVELS`.
        helper_idle_s: seconds without a request after which the helper process ends. Its servers live on.
    """

    directory: Path
    overcommit: float = 8.0
    isolation: str = "auto"
    helper_idle_s: float = 60.0


def read(settings: Mapping[str, str], environment: Mapping[str, str]) -> LocalSettings:
    """Read and check them; no I/O but a look at the password file where HOME is not set.

    Raises:
        ConfigError: a value makes no sense; `setting` names it.
    """
    unknown = sorted(set(settings) - set(ENVIRONMENT))
    if unknown:
        raise ConfigError(
            f"the local provider has no setting {unknown[0]!r}; it has {', '.join(ENVIRONMENT)}", setting=unknown[0]
        )
    values = {key: str(settings.get(key) or environment.get(name, "")) for key, name in ENVIRONMENT.items()}
    isolation = values["isolation"] or "auto"
    if isolation not in ("auto", *LEVELS):
        raise ConfigError(
            f"{_called('isolation')} must be auto, {', '.join(LEVELS)}, not {isolation!r}", setting="isolation"
        )
    return LocalSettings(
        directory=_directory(values["dir"], environment),
        overcommit=_positive("overcommit", values["overcommit"], 8.0),
        isolation=isolation,
        helper_idle_s=_positive("helper_idle", values["helper_idle"], 60.0),
    )


def _called(setting: str) -> str:
    return f"{setting} ({ENVIRONMENT[setting]})"


def _positive(setting: str, text: str, default: float) -> float:
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1e6:
        raise ConfigError(f"{_called(setting)} must be a number above 0, not {text!r}", setting=setting)
    return value


def _directory(text: str, environment: Mapping[str, str]) -> Path:
    if "\0" in text:
        raise ConfigError(f"{_called('dir')} has a zero byte in it", setting="dir")
    if text:
        return Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100  (resolve() would do I/O)
    if environment.get("HOME") or environment.get("XDG_DATA_HOME"):
        from platformdirs import user_data_path

        return user_data_path("pileus") / "local"
    # With an empty HOME, "~" would mean the root directory.
    return Path(pwd.getpwuid(os.geteuid()).pw_dir) / ".local/share/pileus/local"
