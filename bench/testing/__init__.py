"""The conformance kit: whether a plugin keeps its contract, told as an author needs to hear it.

from bench.testing import parametrize_with_checks

@parametrize_with_checks([MyVAE, (MyVAE, {"beta": 10.0})])
def test_conformance(check):
    check()
"""

from bench.testing.kit import Check, Failed, Noted, Outcome, Report, Skipped, check, checks_of, parametrize_with_checks

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
