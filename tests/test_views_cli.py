"""Commands that read stores: the views of the rows are second opinions."""

import numpy as np
import pytest

from adue_sklearn._utils.views import text_digests
from adue_sklearn.features import FeatureStore
from adue_sklearn.persistence import load_head
from adue_sklearn.report import make_report
from adue_sklearn.scorers import CompanionScorer, SecondOpinionScorer
from adue_sklearn.scorers.witnesses import views_read_by
from tests.problems import Problem

PROBLEM = Problem(n=900, noise=1.0)
PARTS = {"train": slice(300), "held": slice(300, 700), "test": slice(700, 900)}


def views():
    """Return a companion that errs elsewhere, and two layers, of all rows."""
    rng = np.random.default_rng(1)
    n_classes = len(PROBLEM.W)
    known = np.eye(n_classes)[PROBLEM.y]
    log_odds = 3 * known + rng.normal(size=known.shape)
    log_proba = log_odds - np.logaddexp.reduce(log_odds, axis=1)[:, None]
    layers = {
        f"layer_{k}": known + k * rng.normal(size=(len(known), n_classes)) / 2 for k in (1, 2)
    }
    return {"friend": log_proba, **layers}


VIEWS = views()


def make_store(path, part, names=tuple(VIEWS)):
    rows = PARTS[part]
    return FeatureStore.create(
        path,
        features=PROBLEM.X[rows],
        labels=PROBLEM.y[rows],
        init_W=PROBLEM.W,
        init_b=PROBLEM.b,
        text_digests=text_digests(f"text {n}" for n in range(900)[rows]),
        views={name: VIEWS[name][rows] for name in names},
    )


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Rows of one problem in three stores with views: training, held-out and test rows."""
    folder = tmp_path_factory.mktemp("stores")
    for part in PARTS:
        make_store(folder / part, part)
    return folder


SOME = ("--scorers", "friend,layer probes,SecondOpinionScorer", "--cv", 2)


def test_compare_lists_second_opinions_by_the_names_of_their_views(adue, stores):
    status, out, err = adue(
        "compare", stores / "held", "--train-store", stores / "train", "--test-store",
        stores / "test", *SOME,
    )  # fmt: skip
    assert (status, err) == (0, "")
    for name in ("friend", "layer probes", "second opinions"):
        assert f"\n{name} " in out
    assert "failed" not in out
    assert "second opinions" in out.split("Better than")[1]


def test_without_training_rows_views_of_features_are_left_out_with_a_warning(adue, stores):
    status, out, err = adue("compare", stores / "held", "--scorers", "second opinions", "--cv", 2)
    assert status == 0, err
    assert "views layer_1, layer_2 of" in err
    assert "(--train-store)" in err
    assert "second opinions" in out
    status, _, err = adue("compare", stores / "held", "--scorers", "layer probes")
    assert status == 1
    assert "layer probes is not one of" in err
    assert ", friend." in err


def test_training_rows_without_a_view_leave_it_out_with_a_warning(adue, stores, tmp_path):
    make_store(tmp_path / "train", "train", ["layer_2"])
    status, out, err = adue(
        "compare", stores / "held", "--train-store", tmp_path / "train", *SOME
    )  # fmt: skip
    assert status == 0, err
    assert "The views layer_1 of" in err
    assert f"extract '{tmp_path / 'train'}' with --layers 1." in err
    assert "layer probes" in out


@pytest.mark.parametrize(
    ("names", "options"),
    [(["layer_1", "layer_2"], "--companion friend=ADAPTER"), (["friend"], "--layers 1,2")],
)
def test_test_rows_without_a_view_are_refused_with_the_option_that_makes_it(
    adue, stores, tmp_path, names, options
):
    make_store(tmp_path / "test", "test", names)
    status, _, err = adue(
        "compare", stores / "held", "--train-store", stores / "train", "--test-store",
        tmp_path / "test", *SOME,
    )  # fmt: skip
    assert status == 1
    assert f"'{tmp_path / 'test'}' lacks the views" in err
    assert f"Extract '{tmp_path / 'test'}' with {options} too." in err


def test_the_automatic_choice_takes_second_opinions_with_label_probes(adue, stores, tmp_path):
    status, out, err = adue(
        "fit", stores / "held", "--train-store", stores / "train", "--folds", 2,
        "--out", tmp_path / "head",
    )  # fmt: skip
    assert status == 0, err
    assert "second opinions" in out[out.index("Chosen:") :]
    for name in ("friend", "layer probes"):
        assert f"\n{name} " in out[out.index("Second opinions") :]
    fitted = load_head(tmp_path / "head")
    assert views_read_by(fitted.estimator) == ["friend", "layer_1", "layer_2"]
    assert set(fitted.provenance["views"]) == {"friend", "layer_1", "layer_2"}


def test_a_head_says_which_view_a_store_lacks_and_scores_it_with_fallback(adue, stores, tmp_path):
    make_store(tmp_path / "test", "test", ["layer_1"])
    head = tmp_path / "head"
    status, _, err = adue("fit", stores / "held", "--score", "friend", "--folds", 2, "--out", head)
    assert status == 0, err
    for command in (
        ("evaluate", head, tmp_path / "test"),
        ("threshold", tmp_path / "test", "--target-risk", 0.5, "--head", head),
    ):
        status, _, err = adue(*command)
        assert status == 1
        assert f"'{tmp_path / 'test'}' lacks the views friend" in err
        assert "with --companion friend=ADAPTER, or pass --fallback" in err
        status, _, err = adue(*command, "--fallback")
        assert status == 0, err


def test_a_report_shows_weights_and_gains_of_chosen_second_opinions(stores):
    pytest.importorskip("matplotlib")
    store, train = (FeatureStore.open(stores / part) for part in ("held", "train"))
    opinions = SecondOpinionScorer([("friend", CompanionScorer("friend"))])
    page = make_report(store, train=train, scorers=[opinions], target_risk=0.2)
    table = page[page.index("Second opinions. Weights are") :]
    for name in ("softmax response", "friend"):
        assert f'<th scope="row">{name}</th>' in table
