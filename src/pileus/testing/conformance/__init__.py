"""The suite that every driver must pass.

```python
from pileus.testing.conformance import DriverUnderTest, run_conformance

report = run_conformance(DriverUnderTest(make=lambda: MyDriver({"account": "test"})))
print(report)
```

With pytest, subclass `DriverConformanceTests` and give it a fixture `subject`; each check is then a test. The checks make
servers and resources and delete them again, each in deployments of its own, and touch nothing else.
"""

from pileus.testing.conformance import checks_offers, checks_resources, checks_servers, checks_trouble
from pileus.testing.conformance.subject import ConformanceError, DriverUnderTest, NotApplicable, Scene
from pileus.testing.conformance.suite import (
    CHECKS,
    RULES,
    Check,
    DriverConformanceTests,
    Report,
    Result,
    run_conformance,
)

__all__ = [
    "CHECKS",
    "RULES",
    "Check",
    "ConformanceError",
    "DriverConformanceTests",
    "DriverUnderTest",
    "NotApplicable",
    "Report",
    "Result",
    "Scene",
    "checks_offers",
    "checks_resources",
    "checks_servers",
    "checks_trouble",
    "run_conformance",
]
