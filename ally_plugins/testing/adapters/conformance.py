"""Running the checks on an adapter, alone or as tests of pytest, and the report of what they saw."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ally_plugins.testing.checks import Broken
from ally_plugins.testing.conformance import Finding, Report

from . import answers, compactions, decisions, events, lifecycles, messages, serving, transforms
from .driver import PARTS, AdapterDriver
from .stage import Stage

if TYPE_CHECKING:
    from .check import AdapterCheck

__all__ = ["ADAPTER_CHECKS", "AdapterConformance", "check_adapter", "run_adapter_check"]

LONGEST: Final = 30.0
"""Seconds that one check may take: they are done in one, and what hangs is a failure."""

ADAPTER_CHECKS: Final[Mapping[str, AdapterCheck]] = MappingProxyType(
    {
        **events.CHECKS,
        **decisions.CHECKS,
        **transforms.CHECKS,
        **answers.CHECKS,
        **messages.CHECKS,
        **compactions.CHECKS,
        **lifecycles.CHECKS,
        **serving.CHECKS,
    }
)
"""Every check of an adapter by its name."""


def check_adapter(driver: AdapterDriver) -> Report:
    """Run every check on an adapter and return the report; `assert report.is_ok, report` in a test.

    Blocks for some seconds; call it outside of a loop. What the driver is missing is left out, with a remark.
    """
    found = [run_adapter_check(name, driver) for name in ADAPTER_CHECKS]
    return Report(driver.name, tuple(found))


def run_adapter_check(check: str, driver: AdapterDriver, *, longest: float = LONGEST) -> Finding:
    """Run one check, by its name in `ADAPTER_CHECKS`; `longest` is the time that it may take, in seconds.

    Raises ValueError when `driver.lacks` names what is no part, or what `driver.serves` has.
    """
    driver.check_lacks()
    wanted = ADAPTER_CHECKS[check]
    if missing := sorted(wanted.needs & driver.missing):
        return Finding(check, None, tuple(f"left out: it lacks {PARTS[part]}" for part in missing))
    try:
        # A loop for each check: what an adapter leaves on one does not disturb the next.
        asyncio.run(_within(wanted, Stage(driver), longest))
    except Broken as broken:
        return Finding(check, str(broken))
    except TimeoutError:
        return Finding(check, f"it did not come to its end within {longest:g} s")
    except Exception as error:  # noqa: BLE001 - whatever an adapter or its framework raises is a finding
        return Finding(check, f"it raised {type(error).__name__}: {error}")
    return Finding(check)


async def _within(check: AdapterCheck, stage: Stage, longest: float) -> None:
    async with asyncio.timeout(longest):
        await check.play(stage)


class AdapterConformance:
    """Tests of an adapter, one for each check: derive from it, name the class `Test...`, and set `driver`."""

    driver: ClassVar[AdapterDriver]
    longest: ClassVar[float] = LONGEST
    """Seconds that one check may take; the first one waits for the framework's import."""

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Make a test of each check; pytest calls it."""
        if "adapter_check" in metafunc.fixturenames:
            metafunc.parametrize("adapter_check", list(ADAPTER_CHECKS))

    def test_the_adapter(self, adapter_check: str) -> None:
        """Check one thing; what the driver lacks is skipped."""
        finding = run_adapter_check(adapter_check, self.driver, longest=self.longest)
        if finding.remarks:
            import pytest  # it runs already: this package does not depend on it

            pytest.skip("; ".join(finding.remarks))
        assert finding.is_ok, f"{ADAPTER_CHECKS[adapter_check].description} {finding.problem}"  # noqa: S101
