"""A share that was given in per cent is told the number that is meant."""

import numpy as np
import pytest

from adue_sklearn.metrics import coverage_at_risk_score, error_roc_auc_interval
from adue_sklearn.monitor import RiskMonitor
from adue_sklearn.selective import SelectiveClassifier, selective_threshold
from tests.problems import Problem

ERRORS, UNCERTAINTY = np.array([0, 1, 0, 1]), np.arange(4.0)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda v: selective_threshold(ERRORS, UNCERTAINTY, target_risk=v), "target_risk"),
        (lambda v: SelectiveClassifier(target_risk=v).fit(*Problem().fit_args), "target_risk"),
        (lambda v: RiskMonitor(target_risk=v), "target_risk"),
        (lambda v: error_roc_auc_interval(ERRORS, UNCERTAINTY, confidence=v), "confidence"),
        (lambda v: coverage_at_risk_score(ERRORS, UNCERTAINTY, risk=v), "risk"),
    ],
)
def test_a_share_in_per_cent_is_told_its_number(call, argument):
    for value, hint in [(2, r"For 2 % write 0\.02\."), (97.5, r"For 97\.5 % write 0\.975\.")]:
        with pytest.raises(ValueError, match=rf"{argument} (is|==) {value}.*{hint}"):
            call(value)
    with pytest.raises(ValueError, match=rf"{argument}(?!.*write)"):
        call(-1)


def test_options_are_told_too(adue, tmp_path):
    from adue_sklearn.features import FeatureStore

    problem = Problem(n=40, d=3, n_classes=2)
    FeatureStore.create(tmp_path / "store", features=problem.X, labels=problem.y, init_W=problem.W)
    for command in (
        ("threshold", tmp_path / "store", "--target-risk", 2),
        ("threshold", tmp_path / "store", "--target-risk", 0.1, "--confidence", 95),
        ("fit", tmp_path / "store", "--out", tmp_path / "head", "--leave-out", 30),
    ):
        status, _, err = adue(*command)
        assert status == 1
        assert f"For {command[-1]} % write {command[-1] / 100:g}." in err
