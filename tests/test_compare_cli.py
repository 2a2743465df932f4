"""``adue compare`` and the figure of a comparison."""

from __future__ import annotations

import io
import json

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from rich.console import Console

from adue_sklearn import EnergyScorer, EntropyScorer, SoftmaxResponseScorer, compare_scorers
from adue_sklearn.cli.comparing import comparison_table
from adue_sklearn.features import FeatureStore
from adue_sklearn.plotting import ComparisonDisplay
from tests.problems import Problem
from tests.toy_scorers import Failing

mpl.use("Agg")
SOME = ("--scorers", "entropy,MahalanobisScorer,Energy")


@pytest.fixture(autouse=True)
def closed_figures():
    plt.close("all")  # what tests of other modules left
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Rows of one problem in three stores: training, held-out and test rows."""
    folder = tmp_path_factory.mktemp("stores")
    problem = Problem(n=600)
    for name, part in (("train", slice(300)), ("held", slice(300, 500)), ("test", slice(500, 600))):
        FeatureStore.create(
            folder / name, features=problem.X[part], labels=problem.y[part], init_W=problem.W,
            init_b=problem.b,
        )  # fmt: skip
    return folder


def test_it_prints_table_and_verdict_of_the_folds(adue, stores):
    status, out, err = adue("compare", stores / "held", *SOME, "--cv", 3)
    assert (status, err) == (0, "")
    store = FeatureStore.open(stores / "held")
    args = (store.features, store.labels, store.init_W, store.init_b)
    auc = SoftmaxResponseScorer().fit(*args).score(*args[:2])
    assert "Cross-validation: 200 rows" in out
    assert f"softmax response {100 * auc:.1f} [" in out
    for name in ("entropy", "energy", "Mahalanobis", "other folds", "p (Holm)", "AURC"):
        assert name in out
    assert "No score beats softmax response" in out or "Better than" in out
    assert "AdUE" not in out


def test_a_narrow_terminal_shows_what_decides_in_full(stores):
    store = FeatureStore.open(stores / "held")
    found = compare_scorers(
        store.features, store.labels, store.init_W, store.init_b, n_resamples=10,
        scorers={"a name of eighteen": EnergyScorer(), "entropy": EntropyScorer()},
    )  # fmt: skip
    for width, shown in ((80, False), (136, True)):
        console = Console(width=width, file=io.StringIO())
        console.print(comparison_table(found, width=width))
        text = console.file.getvalue()
        assert "…" not in text
        assert ("FPR95" in text) == shown
        assert found.table()[1][1][2] in text


def test_training_and_test_stores_decide_what_is_fitted_and_judged_on_what(adue, stores, tmp_path):
    target = tmp_path / "found.json"
    status, out, err = adue(
        "compare", stores / "held", "--train-store", stores / "train",
        "--test-store", stores / "test", *SOME, "--json", target,
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert "Test rows: 100 rows" in out
    found = json.loads(target.read_text())
    train, held, test = (FeatureStore.open(stores / name) for name in ("train", "held", "test"))
    expected = compare_scorers(
        held.features, held.labels, held.init_W, held.init_b, scorers=[EnergyScorer()],
        X_test=test.features, y_test=test.labels,
    )  # fmt: skip
    by_name = {score["name"]: score for score in found["scores"]}
    value = expected["energy"].metrics["roc_auc"].value
    assert by_name["energy"]["metrics"]["roc_auc"]["value"] == pytest.approx(value)
    assert by_name["Mahalanobis"]["fitted_on"] == "training rows"
    assert found["n_rows"] == len(test)
    assert len(train) == 300


def test_the_figure_is_written(adue, stores, tmp_path):
    target = tmp_path / "found.png"
    status, out, err = adue("compare", stores / "held", *SOME, "--figure", target)
    assert (status, err) == (0, "")
    assert plt.imread(target).std() > 0
    assert f"Plotted the differences to {target}." in out


def test_a_scorer_that_fails_is_named_and_the_others_are_shown(adue, tmp_path):
    problem = Problem(n=60)
    labels = np.where(problem.errors, (problem.X @ problem.W.T + problem.b).argmax(1), problem.y)
    labels[0] = (labels[0] + 1) % 3  # the only error
    FeatureStore.create(
        tmp_path / "few", features=problem.X, labels=labels, init_W=problem.W, init_b=problem.b
    )
    status, out, _ = adue("compare", tmp_path / "few", "--scorers", "stacked,energy", "--cv", 2)
    assert status == 0
    assert "stack failed: ValueError: " in out
    assert "Too few errors to compare scores: 1 among 60 rows" in out
    assert "energy" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scorers", "entropy,magic"), "--scorers: magic is not one of SoftmaxResponseScorer"),
        (("--scorers", ","), "--scorers"),
        (("--figure", "figure.docx"), "--figure: figure.docx must end in"),
        (("--json", "."), "--json: . is a folder"),
    ],
)
def test_bad_options_are_named_before_the_work_is_done(adue, stores, options, message):
    status, out, err = adue("compare", stores / "held", *options)
    assert (status, out) == (1, "")
    assert message in err


@pytest.mark.parametrize(("n_right", "n_wrong"), [(1, 0), (0, 1), (1, 1)])
def test_a_store_of_one_or_two_rows_is_said_to_be_too_small(adue, tmp_path, n_right, n_wrong):
    problem = Problem(n=60)
    right, wrong = np.flatnonzero(~problem.errors), np.flatnonzero(problem.errors)
    rows = np.r_[right[:n_right], wrong[:n_wrong]]
    store = tmp_path / "store"
    FeatureStore.create(
        store, features=problem.X[rows], labels=problem.y[rows], init_W=problem.W, init_b=problem.b
    )
    n_rows = f"{len(rows)} row{'s' if len(rows) > 1 else ''}"
    fit = ("fit", "--score=AdUE", store, "--out", tmp_path / "head")
    for command in (("compare", store), (*fit, "--score", "Entropy")):
        status, _, err = adue(*command)
        assert status == 1
        assert f"error: X has {n_rows}, too few for cross-validation. It needs at least 3" in err
    status, _, err = adue(*fit)
    assert status == 1
    assert f"error: The original head makes {n_wrong} errors on {len(rows)} rows, too few" in err
    assert "(--folds)" in err
    assert not (tmp_path / "head").exists()


def test_stores_of_other_models_and_shared_rows_are_told(adue, stores, tmp_path):
    other = Problem(n=50, seed=5)
    FeatureStore.create(
        tmp_path / "other", features=other.X, labels=other.y, init_W=other.W, init_b=other.b
    )
    status, _, err = adue("compare", stores / "held", "--train-store", tmp_path / "other", *SOME)
    assert status == 1
    assert "error:" in err
    status, out, err = adue("compare", stores / "held", "--test-store", stores / "held", *SOME)
    assert (status, out) == (1, "")
    assert "200 of 200 rows" in err
    assert "none remain" in err


def test_the_dots_are_the_differences_of_the_comparison(problem):
    found = compare_scorers(
        *problem.fit_args,
        scorers={"energy": EnergyScorer(), "bad": Failing(), "entropy": EntropyScorer()},
    )
    for metric in ("roc_auc", "aurc"):
        display = ComparisonDisplay.from_comparison(found, metric=metric)
        expected = [found[name].differences[metric] for name in display.names]
        assert sorted(display.names) == ["energy", "entropy"]
        dots, _, (arms,) = display.errorbar_.lines
        np.testing.assert_allclose(dots.get_xdata(), [100 * d.value for d in expected])
        for segment, difference in zip(arms.get_segments(), expected, strict=True):
            np.testing.assert_allclose(segment[:, 0], [100 * difference.low, 100 * difference.high])
        labels = [text.get_text() for text in display.ax_.get_yticklabels()]
        assert labels == list(display.names)
    again = ComparisonDisplay.from_comparison(found, ax=display.ax_)
    assert again.figure_ is display.figure_


def test_what_cannot_be_drawn_is_named(problem):
    found = compare_scorers(*problem.fit_args, scorers=[EnergyScorer()], metrics={})
    with pytest.raises(ValueError, match="metric is 'aurc'; this comparison has roc_auc"):
        ComparisonDisplay.from_comparison(found, metric="aurc")
    with pytest.raises(TypeError, match="comparison is 3"):
        ComparisonDisplay.from_comparison(3)
    with pytest.raises(TypeError, match="ax is a str"):
        ComparisonDisplay.from_comparison(found, ax="x")
    right = ~problem.errors
    alone = compare_scorers(
        problem.X[right], problem.y[right], problem.W, problem.b, scorers=[EnergyScorer()]
    )
    assert ComparisonDisplay.from_comparison(alone).names == []
