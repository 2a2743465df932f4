"""One rule for outputs: checked before the work, and what exists is left unless --force."""

import pytest

from adue_sklearn.features import FeatureStore
from adue_sklearn.persistence import load_head
from adue_sklearn.thresholds import load_threshold

#: Command, the option of its output and a good name for it; what it reads is never reached.
OUTPUTS = {
    "extract": (["extract", "no-model", "no-data.jsonl"], "--out", "store"),
    "fit": (["fit", "no-store"], "--out", "head"),
    "threshold": (["threshold", "no-store", "--target-risk", 0.1], "--out", "t.json"),
    "report": (["report", "no-store"], "--out", "r.html"),
    "predict": (["predict", "no-head", "no-model", "no-data.jsonl"], "--out", "p.jsonl"),
    "compare": (["compare", "no-store"], "--json", "c.json"),
    "figure": (["compare", "no-store"], "--figure", "c.png"),
}
FOLDERS = {"extract": "manifest.json", "fit": "estimator.json"}


@pytest.mark.parametrize("name", OUTPUTS)
def test_what_exists_is_refused_before_anything_is_read_and_stays(adue, tmp_path, name):
    command, option, out = OUTPUTS[name]
    file = tmp_path / out / FOLDERS[name] if name in FOLDERS else tmp_path / out
    file.parent.mkdir(exist_ok=True)
    file.write_text("precious")
    status, _, err = adue(*command, option, tmp_path / out)
    assert status == 1
    assert str(tmp_path / out) in err
    assert "--force" in err
    assert "no-" not in err
    assert file.read_text() == "precious"
    status, _, err = adue(*command, option, tmp_path / out, "--force")
    assert status == 1
    assert "no-" in err  # now it is what is read that is missing
    assert file.read_text() == "precious"


@pytest.mark.parametrize("name", OUTPUTS)
def test_what_cannot_be_made_is_refused_before_anything_is_read(adue, tmp_path, name):
    command, option, out = OUTPUTS[name]
    (tmp_path / "file").write_text("")
    status, _, err = adue(*command, option, tmp_path / "file" / "folder" / out)
    assert status == 1
    assert f"{option}: {tmp_path / 'file'} is a file" in err


@pytest.mark.parametrize("name", sorted(OUTPUTS.keys() - FOLDERS))
def test_a_wrong_suffix_or_a_folder_is_refused(adue, tmp_path, name):
    command, option, out = OUTPUTS[name]
    suffix = out.partition(".")[2]
    status, _, err = adue(*command, option, tmp_path / "out.doc")
    assert status == 1
    assert "must end in " in err
    assert f".{suffix}" in err
    status, _, err = adue(*command, option, tmp_path)
    assert status == 1
    assert "is a folder; name a file" in err
    assert not list(tmp_path.iterdir())


def test_append_and_force_exclude_each_other(adue, tmp_path):
    status, _, err = adue("extract", "m", "d", "--out", tmp_path, "--append", "--force")
    assert (status, "use only one of them" in err) == (1, True)


def test_a_replaced_head_leaves_thresholds_that_are_named_and_refused(adue, problem, tmp_path):
    store = tmp_path / "store"
    FeatureStore.create(
        store, features=problem.X, labels=problem.y, init_W=problem.W, init_b=problem.b
    )
    head, limit = tmp_path / "head", tmp_path / "limit.json"
    assert adue("fit", store, "--out", head, "--score", "Entropy")[0] == 0
    (tmp_path / "other.json").write_text("{}")
    options = ["--head", head, "--target-risk", 0.5, "--out", limit]
    assert adue("threshold", store, *options)[0] == 0
    load_threshold(limit).check_score(load_head(head).estimator)
    status, _, err = adue("fit", store, "--out", head, "--score", "MaxLogit")
    assert (status, "overwrite=True (--force)" in err) == (1, True)
    status, _, err = adue("fit", store, "--out", head, "--score", "MaxLogit", "--force")
    assert status == 0
    assert f"{limit} was set for the head in {head}, which is now replaced" in err
    assert "other.json" not in err
    with pytest.raises(ValueError, match="Perhaps the head was refitted"):
        load_threshold(limit).check_score(load_head(head).estimator)
    assert adue("threshold", store, *options, "--force")[0] == 0
    load_threshold(limit).check_score(load_head(head).estimator)
