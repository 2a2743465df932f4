"""No comparison concludes a gain from rows that cannot show one."""

from __future__ import annotations

import json
import re
import warnings

import numpy as np
import pytest
from rich.console import Console
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from adue_sklearn import (
    AdUEEstimator,
    AdUESearchCV,
    AutoScorer,
    EnergyScorer,
    ErrorProbability,
    LinearProbeScorer,
    MahalanobisScorer,
    SelectiveClassifier,
    SoftmaxResponseScorer,
    StackedScorer,
    compare_scorers,
)
from adue_sklearn.cli.tables import comparison
from adue_sklearn.comparison import default_scorers
from adue_sklearn.exceptions import (
    ChangedFeaturesWarning,
    ClassSharesWarning,
    FitRowsWarning,
    LabelOrderWarning,
    MissingClassesWarning,
)
from adue_sklearn.features import FeatureStore
from adue_sklearn.persistence import load_head, save_head
from adue_sklearn.plotting import ComparisonDisplay
from adue_sklearn.thresholds import SavedThreshold, score_sha256
from tests import marks
from tests.problems import Problem

PROBLEM = Problem(n=1200, n_classes=4, noise=0.6)
HEAD = PROBLEM.W, PROBLEM.b
#: Two of four classes: the head is wrong wherever it answers one of the others.
HALF = PROBLEM.y < 2
RARE = (PROBLEM.y != 3) | (np.arange(1200) % 10 == 0)
SWAPPED = np.array([1, 0, 2, 3])[PROBLEM.y]


def compared(rows, y=PROBLEM.y, cv=2, **options):
    scorers = [AdUEEstimator()]
    return compare_scorers(
        PROBLEM.X[rows], y[rows], *HEAD, scorers=scorers, metrics={}, cv=cv, **options
    )


@pytest.mark.parametrize(
    "estimator",
    [
        AdUEEstimator(),
        AdUESearchCV({"beta": [0.1]}, cv=2),
        StackedScorer(cv=2),
        AutoScorer([("probe", LinearProbeScorer(C=0.01))], cv=2),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_what_learns_from_errors_names_the_classes_that_its_rows_lack(estimator):
    names = np.array(["anger", "joy", "optimism", "sadness"])
    with pytest.warns(MissingClassesWarning) as caught:
        estimator.fit(PROBLEM.X[HALF], names[PROBLEM.y[HALF]], *HEAD, classes=names)
    found = [each for each in caught if each.category is MissingClassesWarning]
    assert [each.filename for each in found] == [__file__]
    message = str(found[0].message)
    anger, joy = np.bincount(PROBLEM.y[HALF])
    assert "y has no rows of classes optimism, sadness" in message
    assert f"(rows: anger {anger}, joy {joy}, optimism 0, sadness 0)" in message
    assert "distrust" in message


def test_scores_that_learn_no_errors_do_not_care():
    with warnings.catch_warnings():
        warnings.simplefilter("error", FitRowsWarning)
        for scorer in (EnergyScorer(), SoftmaxResponseScorer()):
            scorer.fit(PROBLEM.X[HALF], PROBLEM.y[HALF], *HEAD)


@pytest.mark.parametrize(
    ("rows", "y", "category", "reason"),
    [
        (HALF, PROBLEM.y, MissingClassesWarning, "y has no rows of classes 2, 3"),
        (RARE, PROBLEM.y, ClassSharesWarning, "predicts a class far more often than it occurs (3 "),
        (np.full(1200, True), SWAPPED, LabelOrderWarning, "different orders of the classes"),
    ],
    ids=["missing", "rare", "swapped"],
)
def test_cross_validation_over_odd_rows_concludes_no_gain(rows, y, category, reason):
    with pytest.warns(category):
        found = compared(rows, y)
    assert found["AdUE"].gain.low > 0  # it does look better
    assert found.winners == ()
    assert found.verdict.startswith("No conclusion about gains or losses: ")
    assert reason in found.verdict
    assert "Better" not in str(found)
    assert f"{100 * found['AdUE'].gain.value:+.1f}" not in str(found)
    assert json.loads(found.to_json())["reservations"] == list(found.reservations)
    drawn = ComparisonDisplay.from_comparison(found)
    assert "no conclusion" in drawn.ax_.get_xlabel()


@pytest.mark.parametrize(("rows", "y"), [(HALF, PROBLEM.y), (RARE, PROBLEM.y)])
def test_the_automatic_choice_keeps_softmax_response_on_odd_rows(rows, y):
    with pytest.warns(FitRowsWarning):
        auto = AutoScorer([("AdUE", AdUEEstimator())], cv=2).fit(PROBLEM.X[rows], y[rows], *HEAD)
    assert auto.p_values_["AdUE"] < 0.05
    assert auto.selected_ == "softmax response"


def test_complete_test_rows_judge_what_odd_rows_taught():
    test = np.arange(1200) >= 800
    with pytest.warns(MissingClassesWarning, match="^y has no rows"):
        found = compared(HALF & ~test, X_test=PROBLEM.X[test], y_test=PROBLEM.y[test])
    assert found.reservations == ()
    assert found.winners == ("AdUE",)


def test_test_rows_of_one_class_conclude_nothing():
    test = (np.arange(1200) >= 600) & (PROBLEM.y == 1)
    with pytest.warns(MissingClassesWarning, match="^y_test has no rows of classes 0, 2, 3"):
        found = compared(np.arange(1200) < 600, X_test=PROBLEM.X[test], y_test=PROBLEM.y[test])
    assert found.winners == ()
    assert "y_test has no rows of classes 0, 2, 3" in found.verdict


def test_a_class_with_one_row_is_no_missing_class():
    rows = (PROBLEM.y != 2) | (np.cumsum(PROBLEM.y == 2) == 1)
    with pytest.warns(ClassSharesWarning, match=r"2 in 1 rows"):
        found = compared(rows)
    assert found.winners == ()


def test_ordinary_rows_are_not_doubted():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compared(np.full(1200, True)).reservations == ()


def test_rows_that_the_parts_share_are_left_out_and_named():
    again = PROBLEM.X * (1 + 1e-6)  # as out of another batch
    known, test = np.arange(1200) < 700, np.arange(1200) >= 600
    with pytest.warns(
        UserWarning, match="X_test: 100 of 600 rows are also in X; they are left out"
    ):
        found = compared(known, X_test=again[test], y_test=PROBLEM.y[test])
    assert found.n_rows == 500
    train = {"X_train": again[:200], "y_train": PROBLEM.y[:200]}
    with pytest.warns(UserWarning, match="X: 200 of 700 rows are also in X_train"):
        assert compared(known, **train).n_rows == 500
    with pytest.raises(ValueError, match="X_test: 700 of 700 rows are also in X, so no rows rem"):
        compared(known, X_test=again[known], y_test=PROBLEM.y[known])
    with pytest.raises(ValueError, match="X: 40 of 41 rows are also in X_train, so one row rem"):
        compared(np.arange(1200) < 41, X_train=again[:40], y_train=PROBLEM.y[:40])
    with pytest.raises(ValueError, match=r"cv gives folds as row numbers\. Pass X without"):
        compared(known, cv=[(np.arange(350), np.arange(350, 700))], **train)


def test_no_name_on_a_card_holds_a_comma():
    assert [name for name, _ in default_scorers() if "," in name or ";" in name] == []


def test_names_with_a_comma_are_quoted_in_the_verdict():
    found = compare_scorers(
        PROBLEM.X[:300], PROBLEM.y[:300], *HEAD, metrics={},
        scorers={"far, away": MahalanobisScorer(), "farther": MahalanobisScorer(shrinkage=0.5)},
    )  # fmt: skip
    worse = next(line for line in found.verdict.splitlines() if line.startswith("Worse: "))
    assert "“far, away”" in worse
    assert "farther" in worse


@pytest.mark.parametrize("scaler", [StandardScaler(), MinMaxScaler(), MinMaxScaler((-1, 1))])
# Of scaled features the answers are other ones.
@pytest.mark.filterwarnings("ignore::adue_sklearn.exceptions.LabelOrderWarning")
def test_a_scaler_between_features_and_a_head_is_noticed(scaler):
    pipe = make_pipeline(scaler, EnergyScorer())
    with pytest.warns(ChangedFeaturesWarning, match=type(scaler).__name__):
        pipe.fit(PROBLEM.X, PROBLEM.y, energyscorer__init_W=HEAD[0], energyscorer__init_b=HEAD[1])


def _layer_normed(X):
    return (X - X.mean(axis=1, keepdims=True)) / X.std(axis=1, keepdims=True)


@pytest.mark.parametrize(
    "change",
    [
        np.asarray,
        np.tanh,
        _layer_normed,
        lambda X: np.tanh(10 * X).astype(np.float16).astype(np.float32),  # saturated pooler
        lambda X: np.maximum(X, 0),
        lambda X: X / np.linalg.norm(X, axis=1, keepdims=True),
        lambda X: (X > 0).astype(float),
    ],
)
def test_features_as_networks_make_them_are_not_suspected(change):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ChangedFeaturesWarning)
        EnergyScorer().fit(change(PROBLEM.X), PROBLEM.y, *HEAD)


def test_a_scaler_without_a_head_is_not_suspected():
    with warnings.catch_warnings():
        warnings.simplefilter("error", ChangedFeaturesWarning)
        make_pipeline(StandardScaler(), EnergyScorer()).fit(PROBLEM.X, PROBLEM.y)


def make_store(path, rows=slice(None), y=PROBLEM.y, classes=("anger", "joy", "hope", "grief")):
    return FeatureStore.create(
        path, features=PROBLEM.X[rows].astype(np.float32), labels=y[rows], init_W=HEAD[0],
        init_b=HEAD[1], classes=list(classes), provenance={"adapter_sha256": "one"},
    )  # fmt: skip


SMALL_GRID = {"alpha": [0.0], "beta": [0.001]}


@pytest.mark.parametrize(
    ("rows", "y", "reason"),
    [
        (HALF, PROBLEM.y, "has no rows of classes hope, grief"),
        (slice(None), SWAPPED, "different orders of the classes"),
    ],
    ids=["missing", "swapped"],
)
def test_fit_prints_no_gain_from_odd_rows(adue, tmp_path, monkeypatch, rows, y, reason):
    monkeypatch.setattr("adue_sklearn.adue.search.DEFAULT_GRID", SMALL_GRID)
    path = make_store(tmp_path / "calibration", rows, y).path
    status, out, err = adue("fit", "--score=AdUE", path, "--out", tmp_path / "head", "--folds", 2)
    assert status == 0, err
    assert err.count(reason if rows is HALF else "agree with the labels") == 1
    line = next(line for line in out.splitlines() if line.startswith("AdUE "))
    assert re.fullmatch(r"AdUE [\d.]+ - [\d. ]+", line)
    assert "No conclusion about gains or losses: " in out
    assert reason in out
    assert "better" not in out
    status, out, _ = adue("compare", path, "--scorers", "AdUEEstimator", "--cv", 2)
    assert status == 0
    assert "No conclusion about gains or losses: " in out
    assert "Better" not in out


def test_fit_says_plainly_that_adue_lost_where_it_did(capsys):
    rng = np.random.default_rng(0)
    errors = np.arange(400) % 4 == 0
    scores = {
        "softmax response": errors + rng.normal(size=400),
        "AdUE": rng.normal(size=400),
        "Mahalanobis (training rows)": rng.normal(size=400),
    }
    for extra, best in (({}, "softmax response"), ({"other": errors + 0.0}, "other")):
        table = comparison("Cross-validation", errors, scores | extra, flattered=("AdUE",))
        Console(width=200).print(table)
        printed = capsys.readouterr().out
        assert "AdUE finds errors worse than softmax response does, even on rows" in printed
        assert f"Do not use it here; use {best}." in printed
    flattering = {**scores, "AdUE": errors + 0.0}
    Console(width=200).print(comparison("X", errors, flattering, flattered=("AdUE",)))
    assert "AdUE finds" not in capsys.readouterr().out


def test_fit_leaves_out_rows_that_the_model_was_trained_on(adue, tmp_path, monkeypatch):
    monkeypatch.setattr("adue_sklearn.adue.search.DEFAULT_GRID", SMALL_GRID)
    path = make_store(tmp_path / "calibration", slice(0, 600)).path
    train = make_store(tmp_path / "train", slice(500, 1200)).path
    arguments = (
        "fit",
        "--score=AdUE",
        path,
        "--out",
        tmp_path / "head",
        "--folds",
        2,
        "--train-store",
    )
    status, out, err = adue(*arguments, train)
    assert status == 0, err
    assert f"100 of 600 rows in {path} are also in {train}. They are left out." in err
    assert "Cross-validation: 500 rows" in out
    status, out, err = adue(*arguments, path, "--force")
    assert (status, out) == (1, "")
    assert "none remain" in err


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Hold a head fitted on the first half of a store's rows, and the stores."""
    folder = tmp_path_factory.mktemp("halves")
    store = make_store(folder / "all")
    first = make_store(folder / "first", slice(0, 600))
    fitted = AdUEEstimator().fit(first.features, first.labels, *HEAD)
    save_head(fitted, folder / "head", provenance=first.provenance, fitted_on=first.features)
    save_head(fitted, folder / "forgetful", provenance=first.provenance)
    make_store(folder / "second", slice(600, 1200))
    return folder, store


def test_evaluate_leaves_out_the_rows_that_fitted_the_head(adue, halves):
    folder, _ = halves
    status, out, err = adue("evaluate", folder / "head", folder / "all")
    assert (status, err) == (0, "")
    assert "600 of 1200 rows were used to fit the head; left out." in out
    assert "Fresh rows: 600 rows" in out
    _, alone, _ = adue("evaluate", folder / "head", folder / "second")
    assert out.endswith(alone)
    status, out, err = adue("evaluate", folder / "head", folder / "first")
    assert (status, out) == (1, "")
    assert "All 600 rows of" in err
    assert "so they cannot show how good it is" in err


def test_rows_are_recognised_out_of_another_extraction(adue, halves, tmp_path):
    again = PROBLEM.X[:600][::-1].astype(np.float32) * np.float32(1 + 1e-6)
    FeatureStore.create(
        tmp_path / "again", features=again, labels=PROBLEM.y[:600][::-1], init_W=HEAD[0],
        init_b=HEAD[1], classes=["anger", "joy", "hope", "grief"],
        provenance={"adapter_sha256": "one"},
    )  # fmt: skip
    status, _, err = adue("evaluate", halves[0] / "head", tmp_path / "again")
    assert status == 1
    assert "All 600 rows of" in err


def test_nothing_is_concluded_where_a_head_does_not_say_what_fitted_it(adue, halves):
    folder, _ = halves
    status, out, err = adue("evaluate", folder / "forgetful", folder / "first")
    assert status == 0
    assert "does not record which rows it was fitted on" in err
    assert "Fresh" not in out
    assert "better" not in out
    assert "No conclusion about gains or losses" in out


def test_swapped_classes_are_said_by_evaluate_and_no_gain(adue, halves, tmp_path):
    make_store(tmp_path / "swapped", slice(600, 1200), SWAPPED)
    status, out, err = adue("evaluate", halves[0] / "head", tmp_path / "swapped")
    assert status == 0
    assert "In another order of the classes they agree" in err
    assert "No conclusion about gains or losses" in out


@marks.few_rows
def test_a_loaded_head_knows_its_rows_in_python_too(halves):
    folder, store = halves
    loaded = load_head(folder / "head").estimator
    X, y = store.features, np.asarray(store.labels)
    with pytest.warns(UserWarning, match="X: 600 of 1200 rows were used to fit the AdUEEstimator"):
        found = SavedThreshold.of(loaded, X, y)
    assert found == SavedThreshold.of(loaded, X[600:], y[600:])
    with pytest.warns(UserWarning, match="600 of 1200 rows were used to fit"):
        model = SelectiveClassifier(FrozenEstimator(loaded)).fit(X, y)
    assert len(model.calibration_uncertainty_) == 600
    with pytest.warns(
        UserWarning, match="X: 600 of 1200 rows are also in the rows that AdUE was fitted on"
    ):
        judged = compare_scorers(X, y, scorers=[FrozenEstimator(loaded)], metrics={})
    assert judged.n_rows == 600
    for use in (
        lambda: SavedThreshold.of(loaded, X[:600], y[:600]),
        lambda: ErrorProbability(FrozenEstimator(loaded)).fit(X[:600], y[:600]),
        lambda: compare_scorers(X[:600], y[:600], scorers=[FrozenEstimator(loaded)]),
    ):
        with pytest.raises(ValueError, match=r"so no(ne| rows) remain"):
            use()


def test_saving_again_keeps_what_is_known_and_a_new_fit_forgets_it(halves, tmp_path):
    loaded = load_head(halves[0] / "head")
    again = load_head(save_head(loaded.estimator, tmp_path / "again"))
    known = again.provenance["fit_row_digests"]
    assert known == loaded.provenance["fit_row_digests"]
    assert score_sha256(again.estimator) == score_sha256(loaded.estimator)
    X, y = PROBLEM.X[600:], PROBLEM.y[600:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SavedThreshold.of(again.estimator.fit(X, y, *HEAD), PROBLEM.X[:600], PROBLEM.y[:600])
    with pytest.raises(ValueError, match="fitted_on"):
        save_head(loaded.estimator, tmp_path / "other", fitted_on=X[:, :3])


def test_a_final_test_takes_rows_that_did_not_set_the_threshold(adue, halves, tmp_path):
    folder, _ = halves
    make_store(tmp_path / "third", slice(600, 900))
    limit = tmp_path / "threshold.json"
    head = folder / "head"
    status, _, err = adue(
        "threshold", tmp_path / "third", "--head", head, "--target-risk", 0.3, "--out", limit
    )
    assert status == 0, err
    status, out, err = adue("evaluate", head, folder / "second", "--threshold", limit)
    assert (status, err) == (0, "")
    assert "300 of 600 rows were used to set the threshold. They are left out." in out
    assert "Fresh rows: 300 rows" in out
    assert re.search(r"Here \d+ of 300 answers are accepted, \d+ of them wrong", out)
    status, out, err = adue("evaluate", head, tmp_path / "third", "--threshold", limit)
    assert (status, out) == (1, "")
    assert f"set {limit}, so they cannot show that it holds" in err


def test_rows_by_which_a_score_was_chosen_are_named(adue, tmp_path):
    path = make_store(tmp_path / "rows").path
    status, _, err = adue("fit", path, "--score", "energy", "--out", tmp_path / "head")
    assert status == 0, err
    _, out, _ = adue("threshold", path, "--head", tmp_path / "head", "--target-risk", 0.2)
    assert "'adue fit' compared this score on 1200 of these rows." in out
