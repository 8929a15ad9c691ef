"""The choice of a flavor: the cheapest that is large enough, by an order that leaves nothing to chance."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence

from pileus.errors import BadFlavorError, BadRegexError, NoFlavorError
from pileus.models import Flavor
from pileus.policy import space

SPOKEN_OF = 5
"""How many flavors an error names."""


def cheapest(
    flavors: Iterable[Flavor], cores: float, ram_mb: int, regex: str = "", *, architecture: str = ""
) -> Flavor:
    """Choose the cheapest flavor that is large enough.

    "Cheapest" is the lowest price when the price of *every* candidate is known; else, as one unknown price would make the
    comparison a guess, the fewest cores, then the least RAM, then the smallest disk. What is still equal is told apart by
    name and id: the answer does not depend on the order of `flavors`. Disk is no requirement, since a server can be given a
    larger one.

    Args:
        flavors: all there are.
        cores: at least so many; may be fractional or 0.
        ram_mb: at least so many MB; may be 0.
        regex: searched for anywhere in the flavor's name; empty for no limit.
        architecture: only flavors of it, or of unknown architecture; empty for no limit.

    Raises:
        ConfigError: a size is negative, not a number, or absurd.
        BadRegexError: `regex` does not compile.
        NoFlavorError: nothing fits; the message names what comes nearest.
    """
    space.check_cores(cores)
    space.check_ram(ram_mb)
    pattern = compile_regex(regex)
    everything = list(flavors)
    candidates = [
        flavor
        for flavor in everything
        if _is_large_enough(flavor, cores, ram_mb)
        and pattern.search(flavor.name)
        and same_architecture(flavor.architecture, architecture)
    ]
    if not candidates:
        raise _nothing_fits(everything, cores, ram_mb, regex, architecture)
    return min(candidates, key=order_among(candidates))


def cheapest_of_sets(
    flavors: Iterable[Flavor],
    cores: float,
    ram_mb: int,
    regex: str,
    sets: Sequence[Sequence[str]],
    *,
    architecture: str = "",
) -> list[Flavor]:
    """Choose the cheapest flavor of each set, the best overall first.

    All flavors are considered as in `cheapest`, and the set of the one that is found is struck out, with every flavor that
    is in it; this is repeated until no flavor is left that fits, the one found is in none of the sets (it is not part of
    the answer), or there are as many as sets. A flavor that is in several sets counts for the first of them.

    Args:
        flavors: all there are.
        cores: as for `cheapest`.
        ram_mb: as for `cheapest`.
        regex: as for `cheapest`.
        sets: names of flavors, each a regular expression that is searched for in the flavor's name. With no sets at all
            the answer is the one flavor of `cheapest`.
        architecture: as for `cheapest`.

    Returns:
        At least one flavor and at most one for each set, in the order of choice.

    Raises:
        ConfigError: a size is negative, not a number, or absurd.
        BadRegexError: `regex` or a name in a set does not compile.
        NoFlavorError: nothing fits, or the cheapest that does is in none of the sets.
    """
    patterns = [[compile_regex(name) for name in names] for names in sets]
    left = list(flavors)
    first = cheapest(left, cores, ram_mb, regex, architecture=architecture)
    if not patterns:
        return [first]
    chosen: list[Flavor] = []
    while len(chosen) < len(patterns):
        try:
            found = cheapest(left, cores, ram_mb, regex, architecture=architecture)
        except NoFlavorError:
            break
        home = next((names for names in patterns if _is_in(found, names)), None)
        if home is None:
            break
        chosen.append(found)
        left = [flavor for flavor in left if not _is_in(flavor, home)]
    if not chosen:
        raise NoFlavorError(
            f"the cheapest flavor that fits, {describe(first)}, is in none of the {len(patterns)} sets of flavors",
            hint="add it to a set, or narrow the regular expression to the flavors of your sets",
        )
    return chosen


def find(flavors: Iterable[Flavor], id_or_name: str) -> Flavor:
    """Find a flavor by its exact id, else by its exact name (of several with that name, the cheapest).

    Raises:
        BadFlavorError: there is none; the message lists names that are near, or all when there are few.
    """
    everything = list(flavors)
    for attribute in ("id", "name"):
        matching = [flavor for flavor in everything if getattr(flavor, attribute) == id_or_name]
        if matching:
            return min(matching, key=order_among(matching))
    names = sorted({flavor.name for flavor in everything} | {flavor.id for flavor in everything})
    raise BadFlavorError(
        f"no server flavor has the id or name {id_or_name!r}",
        hint=f"one of: {', '.join(near(id_or_name, names))}" if names else "the provider lists no flavors at all",
    )


def order_among(candidates: Sequence[Flavor]) -> Callable[[Flavor], tuple[float, int, int, int, str, str]]:
    """Give the key by which these flavors sort from cheapest to dearest; a total order of flavors with distinct ids."""
    priced = all(_is_price(flavor.price_per_hour) for flavor in candidates)

    def key(flavor: Flavor) -> tuple[float, int, int, int, str, str]:
        price = float(flavor.price_per_hour or 0.0) if priced else 0.0
        return (price, flavor.cores, flavor.ram, flavor.disk, flavor.name, flavor.id)

    return key


def same_architecture(one: str, other: str) -> bool:
    """Whether two spellings can mean one architecture; unknown (empty) goes with any."""
    return not one or not other or _plain_architecture(one) == _plain_architecture(other)


def compile_regex(regex: str) -> re.Pattern[str]:
    """Compile a user's expression.

    Raises:
        BadRegexError: it does not compile; the message says where.
    """
    try:
        return re.compile(regex)
    except (re.error, TypeError, OverflowError, RecursionError) as problem:
        raise BadRegexError(
            f"the flavor regular expression {regex!r} is not valid: {problem}",
            setting="regex",
            hint=f"to match that text literally, use {re.escape(regex)!r}" if isinstance(regex, str) else "",
        ) from None


def describe(flavor: Flavor) -> str:
    """A flavor in a few words, for messages."""
    return f"{flavor.name} ({flavor.cores} cores, {flavor.ram} MB)"


def near(name: str, names: Sequence[str]) -> list[str]:
    """Those of `names` that resemble `name`; when none does, the first few of them, and how many more there are."""
    import difflib  # only errors need it

    close = difflib.get_close_matches(name, names, n=SPOKEN_OF, cutoff=0.5)
    if close:
        return close
    more = len(names) - 2 * SPOKEN_OF
    return [*names[: 2 * SPOKEN_OF], *([f"and {more} more"] if more > 0 else [])]


def _is_price(price: float | None) -> bool:
    return price is not None and math.isfinite(price) and price >= 0


def _is_large_enough(flavor: Flavor, cores: float, ram_mb: int) -> bool:
    return flavor.cores >= cores and flavor.ram >= ram_mb


def _is_in(flavor: Flavor, names: Iterable[re.Pattern[str]]) -> bool:
    return any(name.search(flavor.name) for name in names)


def _plain_architecture(name: str) -> str:
    plain = name.lower().replace("-", "_")
    return {"amd64": "x86_64", "x64": "x86_64", "aarch64": "arm64", "i386": "i686"}.get(plain, plain)


def _nothing_fits(flavors: Sequence[Flavor], cores: float, ram_mb: int, regex: str, architecture: str) -> NoFlavorError:
    wanted = f"{cores:g} cores and {ram_mb} MB of RAM"
    if not flavors:
        return NoFlavorError(f"no server flavor has {wanted}: the provider lists none at all")
    large = [flavor for flavor in flavors if _is_large_enough(flavor, cores, ram_mb)]
    if not large:

        def lack(flavor: Flavor) -> float:
            return max(0.0, cores - flavor.cores) / max(cores, 1) + max(0, ram_mb - flavor.ram) / max(ram_mb, 1)

        nearest = sorted(flavors, key=lambda flavor: (lack(flavor), flavor.name, flavor.id))[:SPOKEN_OF]
        return NoFlavorError(
            f"no server flavor has {wanted}; the nearest: {', '.join(map(describe, nearest))}",
            hint="ask for less, or split the work",
        )
    limits = [f"has a name that matches {regex!r}"] if regex else []
    limits += [f"is for {architecture}"] if architecture else []
    shown = sorted(large, key=order_among(large))[:SPOKEN_OF]
    return NoFlavorError(
        f"of the {len(large)} server flavors with {wanted}, none {' and '.join(limits)}; "
        f"the cheapest of them: {', '.join(map(describe, shown))}",
        hint="widen the regular expression" if regex else "choose another image",
    )
