"""Where the command's settings come from: command line over environment over the file `config.toml` over defaults.

Reads files and the environment when asked to; decides nothing about clouds.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pileus.cli import quantities
from pileus.errors import ConfigError

CONFIG_VARIABLE = "PILEUS_CONFIG"
"""Names another file than the one in the user's configuration directory; then it must exist."""
PROVIDERS_TABLE = "providers"
"""The table of the file that holds a table of the driver's own settings for each provider."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: `key` in the file, `PILEUS_<KEY>` in the environment.

    Attributes:
        read: makes the value from what is written there.
        kind: what is allowed, in words.
        numbers: whether the file may hold a number as well as a string.
    """

    key: str
    read: Callable[..., Any]
    kind: str
    summary: str
    numbers: bool = False

    @property
    def variable(self) -> str:
        """The environment variable's name."""
        return f"PILEUS_{self.key.upper()}"


def _text(value: str, *, setting: str) -> str:
    return value


SETTINGS: tuple[Setting, ...] = (
    Setting("provider", _text, "a string", "The provider: `local`, or another installed one."),
    Setting("name", _text, "a string", "The deployment's resource name."),
    Setting("save_path", _text, "a string", "Where the state goes, as `<save_path>.<name>`."),
    Setting("os", _text, "a string", "The image of new servers: an id, a name, or how one begins."),
    Setting("user", _text, "a string", "Who logs in on new servers."),
    Setting("flavor", _text, "a string", "New servers' flavor: an id, a name, or a regular expression for names."),
    Setting("cores", quantities.cores, "a number", "Cores that a job or server needs at least.", True),
    Setting("ram", quantities.megabytes, "a size like 4G, or MB", "Memory that a job or server needs at least.", True),
    Setting("disk", quantities.gigabytes, "a size like 20G, or GB", "Disk that a job or server needs at least.", True),
    Setting(
        "ttd", quantities.duration, "a duration like 10m, or seconds", "Idle time after which a server goes.", True
    ),
)
_BY_KEY = {setting.key: setting for setting in SETTINGS}


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for one call of the command. None where nobody said anything and the verb has its own default.

    Attributes:
        save_path: prefix of the state file, or None for the user's state directory.
        ram: MB.
        disk: GB.
        ttd: seconds.
        driver: the provider's own settings, from the file.
        origin: for each key that was set, who set it: `command line`, a variable's name, or the file's path.
    """

    provider: str
    name: str
    save_path: str | None = None
    os: str = ""
    user: str = ""
    flavor: str = ""
    cores: float | None = None
    ram: int | None = None
    disk: int | None = None
    ttd: float | None = None
    driver: Mapping[str, str] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)


def load(given: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Join what was `given` on the command line (values read already, None for unsaid) with everything else.

    An environment variable that is empty counts as not set.

    Raises:
        ConfigError: the file or a variable is wrong; the message names it, the key, and what is allowed.
    """
    environ = os.environ if environ is None else environ
    path, must_exist = config_path(environ)
    values, driver_tables = read_config(path, must_exist=must_exist)
    origin = {key: str(path) for key in values}
    for setting in SETTINGS:
        written = environ.get(setting.variable, "")
        if written:
            values[setting.key] = _read(setting, written, f"the environment variable {setting.variable}")
            origin[setting.key] = setting.variable
    for key, value in given.items():
        if value is not None:
            values[key] = value
            origin[key] = "command line"
    values.setdefault("provider", "local")
    if "name" not in values:
        values["name"] = default_name(*login())
    if "save_path" in values:
        values["save_path"] = str(Path(values["save_path"]).expanduser())
    return Settings(**values, driver=driver_tables.get(values["provider"], {}), origin=origin)


def config_path(environ: Mapping[str, str]) -> tuple[Path, bool]:
    """The configuration file's path, and whether it must exist (it was named)."""
    named = environ.get(CONFIG_VARIABLE, "")
    if named:
        return Path(named).expanduser(), True
    import platformdirs

    return Path(platformdirs.user_config_dir("pileus")) / "config.toml", False


def read_config(path: Path, *, must_exist: bool = False) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    """Read the file: the settings by key, and for each provider the settings of its driver, as text.

    A file that is not there counts as empty, unless it must exist.

    Raises:
        ConfigError: it cannot be read, is not TOML, or holds a key or a type that is not allowed.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        if must_exist:
            raise ConfigError(
                f"there is no configuration file {path}",
                setting=CONFIG_VARIABLE,
                hint=f"write it, or unset {CONFIG_VARIABLE}",
            ) from None
        return {}, {}
    except OSError as problem:
        raise ConfigError(f"cannot read {path}: {problem.strerror}", setting=CONFIG_VARIABLE) from None
    import tomllib

    try:
        document = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise ConfigError(f"{path} is not TOML: {problem}", setting=CONFIG_VARIABLE) from None
    drivers = _driver_tables(path, document.pop(PROVIDERS_TABLE, {}))
    values = {key: _from_file(path, key, value) for key, value in document.items()}
    if "save_path" in values:  # relative to the file, since the command may be called anywhere
        values["save_path"] = str(path.parent / Path(values["save_path"]).expanduser())
    return values, drivers


def _from_file(path: Path, key: str, value: Any) -> Any:
    setting = _BY_KEY.get(key)
    if setting is None:
        raise ConfigError(
            f"{path}: unknown key {key!r}; allowed are {', '.join(sorted(_BY_KEY))} and the table {PROVIDERS_TABLE}",
            setting=key,
        )
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not isinstance(value, str) and not (setting.numbers and is_number):
        raise ConfigError(
            f"{path}: {key} must be {setting.kind}, not {_toml_kind(value)}",
            setting=key,
            hint=f'write it like {key} = "..."' if not setting.numbers else "",
        )
    return _read(setting, value, str(path))


def _read(setting: Setting, written: Any, where: str) -> Any:
    try:
        return setting.read(written, setting=setting.key)
    except ConfigError as problem:
        raise ConfigError(f"{where}: {problem}", setting=setting.key) from None


def _driver_tables(path: Path, tables: Any) -> dict[str, dict[str, str]]:
    """Settings of drivers become text, since that is what drivers take, from wherever it comes."""
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise ConfigError(
            f"{path}: {PROVIDERS_TABLE} must hold one table for each provider, like [{PROVIDERS_TABLE}.local]",
            setting=PROVIDERS_TABLE,
        )
    read: dict[str, dict[str, str]] = {}
    for provider, table in tables.items():
        for key, value in table.items():
            if not isinstance(value, str | int | float):
                raise ConfigError(
                    f"{path}: {PROVIDERS_TABLE}.{provider}.{key} must be a string, a number or a boolean, "
                    f"not {_toml_kind(value)}",
                    setting=f"{PROVIDERS_TABLE}.{provider}.{key}",
                )
            read.setdefault(provider, {})[key] = str(value).lower() if isinstance(value, bool) else str(value)
    return read


def _toml_kind(value: Any) -> str:
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array", dict: "a table"}
    return kinds.get(type(value), "a date or time")


def login() -> tuple[str, int]:
    """The login name (empty where the system knows none) and the user's number."""
    import getpass

    try:
        return getpass.getuser(), os.getuid()
    except (OSError, KeyError, ImportError):  # a number without an entry, as in many containers
        return "", os.getuid()


def default_name(login_name: str, number: int) -> str:
    """Make a resource name of the user's own: `pileus-<login name>`, always a valid one.

    A login name that must be changed for that gets a mark made from the original, so that `j.doe` and `j-doe`, who may
    share a cloud account, never share a deployment.
    """
    if not login_name:
        return f"pileus-uid-{number}"
    plain = unicodedata.normalize("NFKD", login_name).encode("ascii", "ignore").decode().lower()
    plain = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:20].strip("-")
    if plain == login_name:
        return f"pileus-{plain}"
    mark = hashlib.sha256(login_name.encode(errors="surrogateescape")).hexdigest()[:6]
    return f"pileus-{plain}-{mark}" if plain else f"pileus-{mark}"
