"""Paths in each other's places: the error says what each is, and what was wanted."""

import json

import pytest

from adue_sklearn import EntropyScorer
from adue_sklearn.features import FeatureStore
from adue_sklearn.persistence import save_head
from tests.problems import Problem

PROBLEM = Problem(n=40)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Return a folder with one of everything that a command takes."""
    folder = tmp_path_factory.mktemp("places")
    store = FeatureStore.create(
        folder / "store", features=PROBLEM.X, labels=PROBLEM.y, init_W=PROBLEM.W, init_b=PROBLEM.b
    )
    scorer = EntropyScorer().fit(*PROBLEM.fit_args)
    save_head(scorer, folder / "head", provenance=store.provenance)
    for name, file in (("adapter", "adapter_config.json"), ("model", "config.json")):
        (folder / name).mkdir()
        (folder / name / file).write_text("{}")
    (folder / "empty").mkdir()
    (folder / "data.jsonl").write_text(json.dumps({"text": "w1"}))
    return folder


#: Command, what stands where a place of another kind is wanted, what that place is, what is wanted.
CASES = [
    ("evaluate", "store head", "store", "a feature store, not a fitted head; are the arguments in"),
    ("evaluate", "head head", "head", "a fitted head, not a feature store; are the arguments in"),
    ("evaluate", "adapter store", "adapter", "an adapter, not a fitted head"),
    ("evaluate", "model store", "model", "a whole model, not a fitted head"),
    ("evaluate", "data.jsonl store", "data.jsonl", "a file, not a fitted head."),
    ("evaluate", "head data.jsonl", "data.jsonl", "a file, not a feature store."),
    ("evaluate", "empty store", "empty", "not a fitted head: it does not contain estimator.json."),
    ("evaluate", "head empty", "empty", "not a finished feature store"),
    ("evaluate", "head store --threshold head", "head", "a fitted head, not a threshold"),
    ("evaluate", "head store --threshold empty", "empty", "a folder, not a threshold"),
    ("predict", "adapter head data.jsonl --out o.jsonl", "adapter", "an adapter, not a fitted"),
    ("predict", "head store data.jsonl --out o.jsonl", "store", "a feature store, not a model"),
    ("predict", "head head data.jsonl --out o.jsonl", "head", "a fitted head, not a model"),
    ("predict", "head adapter store --out o.jsonl", "store", "a feature store, not a file of text"),
    ("predict", "head adapter empty --out o.jsonl", "empty", "a folder. Expected a .jsonl"),
    ("threshold", "head --target-risk 0.1", "head", "a fitted head, not a feature store"),
    ("threshold", "store --target-risk 0.1 --head store", "store", "a feature store, not a fitted"),
    ("compare", "adapter", "adapter", "an adapter, not a feature store"),
    ("compare", "store --test-store head", "head", "a fitted head, not a feature store"),
    ("report", "data.jsonl --out o.html", "data.jsonl", "a file, not a feature store"),
    ("report", "store --texts store --out o.html", "store", "a feature store, not a file of texts"),
    ("fit", "head --out new", "head", "a fitted head, not a feature store"),
    ("fit", "store --train-store adapter --out new", "adapter", "an adapter, not a feature store"),
    ("store info", "head", "head", "a fitted head, not a feature store"),
]


@pytest.mark.parametrize(("command", "arguments", "name", "what"), CASES)
def test_a_path_of_another_kind_is_said_to_be_what_it_is(
    adue, places, monkeypatch, command, arguments, name, what
):
    monkeypatch.chdir(places)
    before = sorted(places.rglob("*"))
    status, out, err = adue(*command.split(), *arguments.split())
    assert (status, out) == (1, "")
    assert f"'{name}' is {what}" in err
    assert sorted(places.rglob("*")) == before


def test_a_file_of_a_folder_that_is_wanted_leads_to_the_folder(adue, places, monkeypatch):
    monkeypatch.chdir(places)
    _, _, err = adue("evaluate", "head/estimator.json", "store")
    assert "is a file, not a fitted head. Give the folder that contains it, 'head'." in err
    _, _, err = adue("compare", "store/manifest.json")
    assert "is a file, not a feature store. Give the folder that contains it, 'store'." in err


def test_a_missing_path_is_told_from_one_of_another_kind(adue, places, monkeypatch):
    monkeypatch.chdir(places)
    _, _, err = adue("evaluate", "hed", "store")
    assert "'hed' does not exist. Did you mean 'head'? Expected a fitted head." in err
    _, _, err = adue("fit", "storee", "--out", "new")
    assert "'storee' does not exist. Did you mean 'store'? Expected a feature store." in err
