"""Commands that read stores: the views of the rows are second opinions."""

import numpy as np
import pytest

from adue_sklearn._utils.views import text_digests
from adue_sklearn.features import FeatureStore
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
