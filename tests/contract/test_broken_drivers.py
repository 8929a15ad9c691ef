"""The conformance suite sees each defect that it promises to see, and sees none where there is none."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from pileus.testing.broken import BROKEN, BrokenDriver
from pileus.testing.conformance import CHECKS, run_conformance
from pileus.testing.conformance.simulated import simulator_under_test


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_the_suite_fails_on_a_broken_driver_at_the_right_check(kind: type[BrokenDriver]) -> None:
    with simulator_under_test(kind, timeout_s=10.0) as subject:
        report = run_conformance(replace(subject, grace_s=0.5, call_timeout_s=1.0), only=[kind.fails])
    assert [result.check.name for result in report.failures] == [kind.fails]
    assert "failed" in str(report)
    for thread in threading.enumerate():  # calls that a broken driver lets hang end by themselves
        if thread.name.startswith("conformance-"):
            thread.join(30)
            assert not thread.is_alive()


def test_every_check_has_a_broken_driver_that_fails_it() -> None:
    assert {kind.fails for kind in BROKEN} == {check.name for check in CHECKS}


def test_the_unbroken_simulator_passes_with_the_same_arguments() -> None:
    with simulator_under_test(timeout_s=10.0) as subject:
        report = run_conformance(subject)
    assert report.passed, str(report)
    assert {result.status for result in report.results} == {"passed"}
    assert len(report.results) == len(CHECKS)
