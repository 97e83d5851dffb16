"""The conformance kit: checks that a plugin keeps its contract, with messages for its author.

from bench.testing import parametrize_with_checks

@parametrize_with_checks([MyVAE, (MyVAE, {"beta": 10.0})])
def test_conformance(check):
    check()
"""

from bench.testing.checking import Outcome, Report, check, checks_of, parametrize_with_checks
from bench.testing.kit import Check, Failed, Noted, Skipped

__all__ = [
    "Check",
    "Failed",
    "Noted",
    "Outcome",
    "Report",
    "Skipped",
    "check",
    "checks_of",
    "parametrize_with_checks",
]
