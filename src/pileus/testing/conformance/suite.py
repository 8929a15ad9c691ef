"""The list of checks, and two ways to run it: as a report, and as tests of a class."""

from __future__ import annotations

import time
import traceback
import unittest
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from pileus.testing.conformance.subject import ConformanceError, DriverUnderTest, NotApplicable, Scene

RULES = {
    0: "what the driver says of itself",
    1: "what is created carries all tags in the create call itself",
    2: "a listing shows every thing that carries the asked tags, and nothing else",
    3: "a thing being deleted is listed until it is gone; deleting what is gone raises NotFoundError",
    4: "ownership is an exact match of the deployment's id",
    5: "the deadline is kept",
    6: "one failure in a batch does not spoil the others",
    7: "errors are of the right type, and bad input is refused without creating anything",
    8: "no waiting, no memory, safe to call from several threads",
}
"""1 to 7 are those of `pileus.drivers.base`."""


@dataclass(frozen=True)
class Check:
    """One thing that a driver must do.

    Attributes:
        name: says what must be so.
        rule: a key of `RULES`.
        function: does it in a `Scene`; raises when it is not so.
    """

    name: str
    rule: int
    function: Callable[[Scene], None]

    @property
    def description(self) -> str:
        """The check in a sentence or two."""
        return " ".join((self.function.__doc__ or "").split())

    def run(self, subject: DriverUnderTest) -> None:
        """Run it, and leave nothing in the cloud.

        Raises:
            ConformanceError: the driver breaks the rule, or what the check made could not be deleted.
            NotApplicable: it needs what the driver does not have.
        """
        scene = Scene(subject)
        try:
            self.function(scene)
        except (ConformanceError, NotApplicable) as problem:
            _clean_up_after(scene, problem)
            raise
        except Exception as problem:
            _clean_up_after(scene, problem)
            raise ConformanceError(f"unexpected {type(problem).__name__}: {problem}") from problem
        else:
            try:
                scene.clean_up()
            except ConformanceError:
                raise
            except Exception as problem:
                raise ConformanceError(f"clean-up: unexpected {type(problem).__name__}: {problem}") from problem


CHECKS: list[Check] = []
"""All checks, in the order in which they are best run: the simplest first."""


def check(rule: int) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:
    """Put a function on the list; its name and docstring say what must be so."""

    def add(function: Callable[[Scene], None]) -> Callable[[Scene], None]:
        CHECKS.append(Check(function.__name__, rule, function))
        return function

    return add


@dataclass(frozen=True)
class Result:
    """How one check went: `passed`, `failed` or `not applicable`, and the reason for the latter two."""

    check: Check
    status: str
    reason: str = ""
    duration_s: float = 0.0


@dataclass(frozen=True)
class Report:
    """How all went. `str(report)` is fit to print."""

    results: tuple[Result, ...]

    @property
    def failures(self) -> tuple[Result, ...]:
        """Those that failed."""
        return tuple(result for result in self.results if result.status == "failed")

    @property
    def passed(self) -> bool:
        """Whether none failed."""
        return not self.failures

    def __str__(self) -> str:
        """A line for each check, more for one that failed, and the sum."""
        lines = []
        for result in self.results:
            lines.append(f"{result.status:>14}  {result.check.name}  ({result.duration_s:.2f} s)")
            if result.status == "failed":
                rule = f"rule {result.check.rule}" if 1 <= result.check.rule <= 7 else "the rule"
                lines.append(f"                {rule}: {RULES[result.check.rule]}")
            lines += [f"                {line}" for line in result.reason.splitlines()]
        failed, all_of_them = len(self.failures), len(self.results)
        lines.append(f"{all_of_them - failed} of {all_of_them} checks without a failure, {failed} failed")
        return "\n".join(lines)


def run_conformance(subject: DriverUnderTest | Callable[[], DriverUnderTest], *, only: Collection[str] = ()) -> Report:
    """Run the checks, one after another, each to its end whatever the others did.

    Args:
        subject: the driver under test, or something that gives a new one for each check.
        only: names of the checks to run; empty for all.
    """
    results = []
    for one in CHECKS:
        if only and one.name not in only:
            continue
        began = time.monotonic()
        status, reason = "passed", ""
        try:
            one.run(subject if isinstance(subject, DriverUnderTest) else subject())
        except NotApplicable as problem:
            status, reason = "not applicable", str(problem)
        except ConformanceError as problem:
            status, reason = "failed", "\n".join([str(problem), *getattr(problem, "__notes__", ())])
        results.append(Result(one, status, reason, time.monotonic() - began))
    return Report(tuple(results))


class DriverConformanceTests:
    """The checks as tests. Subclass it, as `Test…`, and give it a fixture `subject` that is a `DriverUnderTest`.

    A check that does not apply is skipped, with the reason.
    """

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        for one in CHECKS:
            if not hasattr(cls, f"test_{one.name}"):
                setattr(cls, f"test_{one.name}", _as_test(one))


def _as_test(one: Check) -> Callable[[Any, DriverUnderTest], None]:
    def test(self: Any, subject: DriverUnderTest) -> None:
        try:
            one.run(subject)
        except NotApplicable as problem:
            raise unittest.SkipTest(str(problem)) from None

    test.__name__ = f"test_{one.name}"
    test.__doc__ = one.function.__doc__
    return test


def _clean_up_after(scene: Scene, problem: Exception) -> None:
    """Clean up where the check has failed already: that failure is what the author must see."""
    try:
        scene.clean_up()
    except Exception as second:  # noqa: BLE001  (a broken driver may raise anything)
        problem.add_note("and the clean-up failed: " + traceback.format_exception_only(second)[0].strip())
