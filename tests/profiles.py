"""How many examples hypothesis draws: the same ones each time, or many new ones.

``quick`` draws what it drew last time, on every machine; ``deep`` (``make test-deep``) draws anew.
A test takes its settings from here, so that one option reaches all of them.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

_SHARED = {
    "deadline": None,
    "database": None,
    # Examples of one test may share its folders: none looks at what another left there.
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}

settings.register_profile("quick", max_examples=20, derandomize=True, **_SHARED)
settings.register_profile("deep", max_examples=200, print_blob=True, **_SHARED)


def share_of_examples(share: float) -> settings:
    """Return settings with this share of the profile's examples, for a test that is dear."""
    return settings(max_examples=max(1, round(share * settings().max_examples)))


def repeated(few: int, many: int) -> pytest.MarkDecorator:
    """Return a simulation's ``times``: few in each run, many in the deep one."""
    return pytest.mark.parametrize("times", [few, pytest.param(many, marks=pytest.mark.deep)])
