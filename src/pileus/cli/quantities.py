"""Sizes and durations as people write them: `4G` of memory, `20G` of disk, `10m`. Pure."""

from __future__ import annotations

import itertools
import math
import re

from pileus.errors import ConfigError

_NUMBER = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]*)\s*", re.ASCII)

# Powers of 1024 throughout, since clouds count flavors so; the unit's `B` or `iB` changes nothing.
_MEGABYTES = {"m": 1, "g": 1024, "t": 1024**2}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

MOST_MEGABYTES = 1024**4
"""An exabyte: what is larger is a slip of the pen."""
MOST_SECONDS = 10 * 366 * 86400.0
MOST_CORES = 1_000_000.0


def megabytes(text: str | float, *, setting: str = "ram") -> int:
    """Read an amount of memory: `4G`, `500M`, or a number of MB.

    Raises:
        ConfigError: it is no such amount, negative, or absurdly large.
    """
    return math.ceil(_size(text, "m", setting, "4G, 500M, or a number of MB"))


def gigabytes(text: str | float, *, setting: str = "disk") -> int:
    """Read an amount of disk: `20G`, `1T`, or a number of GB; parts of a GB are rounded up.

    Raises:
        ConfigError: it is no such amount, negative, or absurdly large.
    """
    return math.ceil(_size(text, "g", setting, "20G, 1T, or a number of GB") / 1024)


def cores(text: str | float, *, setting: str = "cores") -> float:
    """Read a number of cores, which may be a fraction or 0.

    Raises:
        ConfigError: it is no number, negative, or absurdly large.
    """
    number, unit = _parts(text)
    if number is None or unit or number > MOST_CORES:
        raise _refusal(text, setting, "a number, like 2 or 0.5")
    return number


def duration(text: str | float, *, setting: str = "duration") -> float:
    """Read a span of time in seconds: `90`, `10m`, `2h`, `1d`, `1h30m`.

    Raises:
        ConfigError: it is no such span, negative, or longer than ten years.
    """
    allowed = "seconds, or a number with s, m, h, d or w: 90, 10m, 2h, 1d, 1h30m"
    if not isinstance(text, str):
        number, _ = _parts(text)
        if number is None or number > MOST_SECONDS:
            raise _refusal(text, setting, allowed)
        return number
    parts = re.findall(r"([\d.]+)\s*([a-zA-Z]*)", text, re.ASCII)
    if not parts or re.sub(r"[\d.]+\s*[a-zA-Z]*|\s", "", text, flags=re.ASCII):
        raise _refusal(text, setting, allowed)
    total = 0.0
    for number, unit in parts:
        value, _ = _parts(number)
        scale = _SECONDS.get(unit.lower(), 0) if unit or len(parts) > 1 else 1
        if value is None or not scale:
            raise _refusal(text, setting, allowed)
        total += value * scale
    if total > MOST_SECONDS:
        raise _refusal(text, setting, allowed)
    return total


def show_megabytes(amount_mb: float) -> str:
    """Show an amount of memory briefly: `512M`, `4G`, `1.5G`."""
    if amount_mb < 1024:
        return f"{amount_mb:g}M"
    return f"{_brief(amount_mb / 1024)}G" if amount_mb < 1024**2 else f"{_brief(amount_mb / 1024**2)}T"


def show_bytes(amount: float) -> str:
    """Show a number of bytes briefly: `17 B`, `1.5 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{_brief(amount)} {unit}"


def show_duration(span_s: float) -> str:
    """Show a span of time in at most two units: `0.4s`, `42s`, `3m10s`, `2h5m`, `6d4h`."""
    if span_s < 10:
        return f"{max(0.0, span_s):.1f}s"
    whole = int(span_s)
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    for (unit, size), (next_unit, next_size) in itertools.pairwise(units):
        if whole >= size:
            rest = whole % size // next_size
            return f"{whole // size}{unit}" + (f"{rest}{next_unit}" if rest else "")
    return f"{whole}s"


def _size(text: str | float, bare_unit: str, setting: str, allowed: str) -> float:
    """Megabytes, where a number without a unit counts in `bare_unit`."""
    number, unit = _parts(text)
    scale = _MEGABYTES.get(re.sub(r"i?b$", "", unit.lower()) if unit else bare_unit)
    if number is None or scale is None or number * scale > MOST_MEGABYTES:
        raise _refusal(text, setting, allowed)
    return number * scale


def _parts(text: str | float) -> tuple[float | None, str]:
    if isinstance(text, bool):
        return None, ""
    if not isinstance(text, str):
        return (float(text), "") if math.isfinite(text) and text >= 0 else (None, "")
    match = _NUMBER.fullmatch(text)
    return (float(match[1]), match[2]) if match else (None, "")


def _refusal(text: object, setting: str, allowed: str) -> ConfigError:
    named = f"{setting}: " if setting else ""
    return ConfigError(f"{named}{text!r} will not do; write {allowed}", setting=setting)


def _brief(number: float) -> str:
    return f"{number:.1f}".rstrip("0").rstrip(".") if number < 100 else f"{number:.0f}"
