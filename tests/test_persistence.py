"""Saved heads come back whole, hold no pickle, and refuse another model's features."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

from adue_sklearn import AdUEEstimator, MahalanobisScorer, SoftmaxResponseScorer
from adue_sklearn.persistence import ModelMismatchError, check_same_model, load_head, save_head

PROVENANCE = {
    "model": "adapters/a",
    "base_model": "base",
    "adapter_sha256": "aaaa",
    "view": "last_linear",
    "max_length": 64,
    "precision": "float32",
    "versions": {"torch": "2.13.0"},
}


@pytest.fixture
def adue(problem):
    return AdUEEstimator(alpha=0.1).fit(*problem.fit_args)


@pytest.fixture
def saved(adue, tmp_path):
    return save_head(adue, tmp_path / "head", provenance=PROVENANCE, class_names=["a", "b", "c"])


@pytest.mark.parametrize(
    "estimator",
    [AdUEEstimator(scale="paper"), MahalanobisScorer("relative"), SoftmaxResponseScorer()],
    ids=str,
)
@pytest.mark.parametrize("names", [None, ["x", "y", "z"]])
def test_a_loaded_estimator_scores_to_the_bit_as_the_saved_one(estimator, names, problem, tmp_path):
    y = problem.y if names is None else np.array(names)[problem.y]
    estimator.fit(problem.X, y, problem.W, problem.b, classes=names)
    loaded = load_head(save_head(estimator, tmp_path / "head")).estimator
    assert repr(loaded) == repr(estimator)
    for method in ("predict", "predict_proba", "predict_uncertainty"):
        np.testing.assert_array_equal(
            getattr(loaded, method)(problem.X), getattr(estimator, method)(problem.X)
        )
    assert loaded.score(problem.X, y) == estimator.score(problem.X, y)


def test_the_folder_holds_json_and_safetensors_only(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["arrays.safetensors", "estimator.json"]
    document = json.loads((saved / "estimator.json").read_text())
    assert document["class"] == "AdUEEstimator"
    assert document["provenance"] == PROVENANCE
    assert load_head(saved).class_names == ["a", "b", "c"]


def test_saving_again_replaces_an_older_head(saved, problem):
    other = SoftmaxResponseScorer().fit(*problem.fit_args)
    save_head(other, saved)
    assert isinstance(load_head(saved).estimator, SoftmaxResponseScorer)


def test_a_folder_with_other_files_is_left_alone(adue, tmp_path):
    (tmp_path / "thesis.tex").write_text("text")
    with pytest.raises(FileExistsError, match=r"holds other files \(thesis\.tex\)"):
        save_head(adue, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_unfitted_or_foreign_estimators_are_refused(tmp_path, problem):
    with pytest.raises(ValueError, match="not fitted"):
        save_head(AdUEEstimator(), tmp_path / "head")

    class Mine(SoftmaxResponseScorer):
        pass

    with pytest.raises(TypeError, match="estimator is a Mine"):
        save_head(Mine().fit(*problem.fit_args), tmp_path / "head")
    assert not (tmp_path / "head").exists()


def test_what_is_no_head_is_named(tmp_path, saved):
    with pytest.raises(FileNotFoundError, match="is no fitted head"):
        load_head(tmp_path / "nothing")
    document = json.loads((saved / "estimator.json").read_text())
    for change, message in [
        ({"format_version": 99}, "format version 99"),
        ({"class": "Popen"}, "it holds a Popen"),
        ({"params": {"alpa": 1}}, "alpa"),
    ]:
        (saved / "estimator.json").write_text(json.dumps(document | change))
        with pytest.raises(ValueError, match=message):
            load_head(saved)


def test_a_truncated_file_is_named(saved):
    file = saved / "arrays.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match="cannot be read as a fitted head"):
        load_head(saved)


def test_the_same_model_is_accepted_silently(saved, problem):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_same_model(
            load_head(saved),
            provenance=PROVENANCE,
            init_W=problem.W.astype(np.float32),
            init_b=problem.b.astype(np.float32),
        )


@pytest.mark.parametrize(
    ("provenance", "W_factor", "b_shift", "named"),
    [
        ({"adapter_sha256": "bbbb"}, 1, 0, "adapter_sha256"),
        ({"view": "head"}, 1, 0, "view"),
        ({}, 1.01, 0, "init_W"),
        ({}, 1, 0.1, "init_b"),
        ({"precision": "bfloat16"}, 1.1, 0, "init_W"),
    ],
)
def test_features_of_another_model_are_refused_unless_allowed(
    saved, problem, provenance, W_factor, b_shift, named
):
    given = {
        "provenance": PROVENANCE | provenance,
        "init_W": problem.W * W_factor,
        "init_b": problem.b + b_shift,
    }
    with pytest.raises(ModelMismatchError, match=named):
        check_same_model(load_head(saved), **given)
    with pytest.warns(UserWarning, match=named):
        check_same_model(load_head(saved), **given, allow_other_model=True)


def test_another_number_of_classes_is_refused(saved, problem):
    with pytest.raises(ModelMismatchError, match=r"init_W \(shape \(3, 12\) then, \(2, 12\) now\)"):
        check_same_model(
            load_head(saved), provenance=PROVENANCE, init_W=problem.W[:2], init_b=problem.b[:2]
        )


@pytest.mark.parametrize(
    "change",
    [{"model": "moved/a"}, {"versions": {"torch": "3"}}, {"max_length": 32}],
)
def test_other_paths_versions_and_lengths_only_warn(saved, problem, change):
    with pytest.warns(UserWarning, match=next(iter(change))):
        check_same_model(
            load_head(saved),
            provenance=PROVENANCE | change,
            init_W=problem.W,
            init_b=problem.b,
        )


def test_a_head_rounded_to_another_precision_only_warns(saved, problem):
    W, b = (torch.tensor(a).to(torch.bfloat16).float().numpy() for a in (problem.W, problem.b))
    with pytest.warns(UserWarning, match="precision"):
        check_same_model(
            load_head(saved),
            provenance=PROVENANCE | {"precision": "bfloat16"},
            init_W=W,
            init_b=b,
        )
