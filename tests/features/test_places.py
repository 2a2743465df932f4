"""A model that is not where it was said to be: what is the case is said, at once."""

from __future__ import annotations

import os
import re
import shutil

import huggingface_hub
import pytest
from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError

from adue_sklearn.features import FeatureStore, LoraFeatureExtractor, load_classifier
from adue_sklearn.features._model import checkpoint
from tests.problems import Problem


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Count what the hub is asked, and have it answer with an error."""

    class Hub:
        asked = 0
        answer: Exception = ConnectionError("no network")

    def ask(*_, **__):
        Hub.asked += 1
        raise Hub.answer

    monkeypatch.setattr(checkpoint, "get_hf_file_metadata", ask)
    monkeypatch.setattr(checkpoint, "hf_hub_download", ask)
    monkeypatch.chdir(tmp_path)
    return Hub


def missing(kind, message):
    response = type("Response", (), {"headers": {}, "request": None, "status_code": 404})()
    return kind(message, response=response)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./adapter", r"model: '\./adapter' does not exist\. Did you mean 'adaptor'\?"),
        ("runs/adapter", r"'runs/adapter' does not exist .read as a path because 'runs' exists"),
        ("runs/7/adapter", r"'runs/7/adapter' does not exist: there is no folder 'runs/7'"),
        ("~/adapter", r"'~' is not expanded here"),
        ("adapter/", r"'adapter/' does not exist"),
        (".\\adapter", "does not exist"),
        ("adapter.safetensors", "does not exist"),
        ("", "model: '' does not exist"),
        ("notes.txt", r"'notes\.txt' is a file; expected the folder that contains it"),
    ],
)
def test_what_looks_like_a_path_never_goes_to_the_hub(hub, tmp_path, name, message):
    for folder in ("runs", "adaptor"):
        (tmp_path / folder).mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=message.replace(" .read", r" \(it is read")):
        load_classifier(name, base_model="owner/base")
    assert hub.asked == 0


@pytest.mark.parametrize("name", ["a\0b", "two words", "-name"])
def test_a_name_that_the_hub_does_not_allow_is_said(roberta, name):
    for arguments, argument in (
        ({"model": name}, "model"),
        ({"model": roberta.adapter, "base_model": name}, r"base_model \(--base-model\)"),
        ({"model": roberta.adapter, "tokenizer": name}, "tokenizer"),
    ):
        message = f"^{argument}: {re.escape(repr(name))} is neither an existing folder nor a name"
        with pytest.raises(ValueError, match=message):
            load_classifier(**arguments)


def test_a_path_with_a_null_character_is_named(roberta):
    with pytest.raises(ValueError, match=r"cache is 'a\\x00b', which holds a null character"):
        LoraFeatureExtractor(roberta.adapter, cache="a\0b").fit_transform(["w1"])
    with pytest.raises(ValueError, match=r"path: expected a path, got 'a\\x00b', which holds a"):
        FeatureStore.create("a\0b", features=[[1.0]], init_W=[[1.0], [2.0]])


@pytest.mark.parametrize("name", ["bad/nope", "bert-base-uncased"])
def test_a_hub_that_does_not_answer_is_asked_once(hub, name):
    with pytest.raises(ValueError, match=f"'{name}' is neither .* the hub did not answer .Conn"):
        load_classifier(name, base_model="owner/base")
    assert hub.asked == 1


def test_a_name_that_the_hub_does_not_know_is_said(hub):
    hub.answer = missing(RepositoryNotFoundError, "404")
    with pytest.raises(ValueError, match="neither an existing folder nor a model on the Hugging"):
        load_classifier("bad/nope")
    assert hub.asked == 1


def test_a_file_that_a_model_on_the_hub_lacks_is_none(hub):
    hub.answer = missing(RemoteEntryNotFoundError, "404")
    assert checkpoint.find_file("good/model", "config.json") is None


def test_without_network_the_cache_is_read(hub, tmp_path, monkeypatch):
    file = tmp_path / "config.json"
    file.write_text("{}")

    def cached(_, name):
        return str(file) if name == "config.json" else None

    monkeypatch.setattr(checkpoint, "try_to_load_from_cache", cached)
    assert checkpoint.find_file("good/model", "config.json") == file
    assert checkpoint.find_file("good/model", "adapter_config.json") is None


def test_an_adapter_given_as_base_is_said_to_be_one(roberta, hub):
    with pytest.raises(
        ValueError,
        match=rf"--base-model.*is an adapter, whose own base model is '{roberta.base}'; expected",
    ):
        load_classifier(roberta.adapter, base_model=roberta.adapter)


def test_a_base_is_named_with_what_is_wrong_with_it(roberta, hub, tmp_path):
    for base, message in {
        "owner/base": r"base_model \(--base-model\): 'owner/base' is neither.*did not answer",
        "./base": r"base_model \(--base-model\): './base' does not exist",
        str(tmp_path): "holds no model .config.json is missing",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_classifier(roberta.adapter, base_model=base)
    assert hub.asked == 1


def test_a_whole_model_with_a_base_is_told_from_a_folder_without_a_model(roberta, hub, tmp_path):
    with pytest.raises(ValueError, match="is a whole model, not an adapter; leave it out"):
        load_classifier(roberta.base, base_model=roberta.base)
    with pytest.raises(ValueError, match=r"holds neither an adapter .* nor a whole model"):
        load_classifier(tmp_path, base_model=roberta.base)


def test_an_adapter_in_a_sub_folder_is_pointed_to(roberta, hub, tmp_path):
    shutil.copytree(roberta.adapter, tmp_path / "run" / "checkpoint-5")
    with pytest.raises(
        ValueError, match=r"only in a subfolder; pass that folder: '.*checkpoint-5'"
    ):
        load_classifier(tmp_path / "run")


def test_a_feature_store_given_as_model_is_recognised(roberta, hub, tmp_path):
    problem = Problem(n=4, d=3)
    FeatureStore.create(tmp_path / "store", features=problem.X, init_W=problem.W)
    with pytest.raises(ValueError, match="is a feature store, not a model; are the arg"):
        load_classifier(tmp_path / "store")
    with pytest.raises(
        ValueError, match=r"--base-model\): '.*' is a feature store, not a whole mo"
    ):
        load_classifier(roberta.adapter, base_model=tmp_path / "store")


def test_offline_mode_is_an_answer(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert os.environ["HF_HUB_OFFLINE"]
    with pytest.raises(ValueError, match="'bad/nope' is neither"):
        load_classifier("bad/nope")


@pytest.mark.parametrize("name", ["/tmp/" + "x" * 400, "x" * 400, "owner/" + "x" * 400])
def test_a_name_longer_than_a_file_system_takes_is_not_there(name):
    with pytest.raises(ValueError, match="x" * 400):
        load_classifier(name)
