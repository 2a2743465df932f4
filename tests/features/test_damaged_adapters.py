"""Adapters that were damaged or edited: loaded, or one error that names the adapter's files.

Each file of one saved adapter is mutated, a few times in the ordinary run and hundreds of times in
the deep one. Whatever comes of it, loading changes no file.
"""

import json
import re
import shutil
import warnings

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adue_sklearn.exceptions import FeatureMismatchError
from adue_sklearn.features import compute_features, load_classifier
from tests.mutations import content_of, mutated, mutated_bytes

MUTATE = {
    "adapter_config.json": mutated,
    "adapter_model.safetensors": mutated_bytes,
    "tokenizer.json": mutated,
    "tokenizer_config.json": mutated,
}


@pytest.fixture(scope="module")
def adapter(make_saved_case, tmp_path_factory):
    """Return the folder of an adapter that may be damaged, and what its files hold."""
    folder = tmp_path_factory.mktemp("damaged") / "adapter"
    shutil.copytree(make_saved_case("roberta", 2).adapter, folder)
    return folder, content_of(folder)


@pytest.fixture
def damage(adapter):
    """Return a function that gives one of the adapter's files other content for a test."""
    folder, sound = adapter
    yield lambda name, content: (folder / name).write_bytes(content)
    for name, content in sound.items():
        (folder / name).write_bytes(content)


def outcome(folder):
    """Load and use an adapter: None where it works, else the message, which must be ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of peft and transformers
            classifier = load_classifier(folder, device="cpu")
            features = compute_features(classifier, ["w1 w2", "w3"])
    except (ValueError, OSError, FeatureMismatchError) as error:
        found = str(error)
    else:
        assert np.isfinite(features[0] if isinstance(features, tuple) else features).all()
        return None
    assert str(folder) in found
    return found


@pytest.mark.parametrize("n", [8, pytest.param(500, marks=pytest.mark.deep)])
@pytest.mark.parametrize("name", MUTATE)
def test_a_mutated_adapter_is_loaded_or_named_and_nothing_is_written(name, n, adapter, damage):
    folder, sound = adapter
    rng = np.random.default_rng(0)
    refused = 0
    for number in range(n):
        content = MUTATE[name](sound[name], rng)
        damage(name, content)
        try:
            refused += outcome(folder) is not None
        except BaseException as error:
            error.add_note(f"mutation {number}: {content[:2000]!r}")
            raise
        assert content_of(folder) == sound | {name: content}
    assert refused >= n / 4


def edited(content, **changes):
    return json.dumps(json.loads(content) | changes).encode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": -4}, "'r' is -4; expected greater than or equal to 0"),
        ({"r": "4"}, "'r' is '4'; expected a valid integer"),
        ({"lora_alpha": [8]}, "'lora_alpha' is [8]; expected a valid number"),
        ({"lora_alpha": float("nan")}, "it holds NaN, which is not a JSON number"),
        ({"target_modules": 3}, "'target_modules' is 3; expected a string or a list of strings"),
        ({"base_model_name_or_path": 3}, "'base_model_name_or_path' is 3"),
        ({"peft_type": "NONE"}, "does not fit the base model"),
    ],
)
def test_an_odd_value_in_the_configuration_is_named(changes, message, adapter, damage):
    folder, sound = adapter
    damage("adapter_config.json", edited(sound["adapter_config.json"], **changes))
    assert message in outcome(folder)


def test_a_truncated_file_and_one_that_is_none_are_named(adapter, damage):
    folder, sound = adapter
    for name in ("adapter_model.safetensors", "tokenizer.json"):
        for content in (sound[name][:-20], b"", b"version https://git-lfs.github.com/spec/v1\n"):
            damage(name, content)
            assert "cannot be read" in outcome(folder)
        damage(name, sound[name])


def test_weights_that_are_no_numbers_are_named(adapter, damage):
    folder, _ = adapter
    tensors = load_file(folder / "adapter_model.safetensors")
    name = next(key for key in tensors if "lora_B" in key)
    tensors[name][0, 0] = np.nan
    save_file(tensors, folder / "adapter_model.safetensors")
    assert f"'{name}' holds NaN or infinity" in outcome(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", lambda old: old[: len(old) // 2], "is damaged or incomplete ("),
        ("config.json", lambda _: b"{}", "is damaged or incomplete ('{base}' holds no model ("),
        ("config.json", lambda old: edited(old, num_labels="x"), "config.json' cannot be read"),
        ("model.safetensors", lambda old: old[: len(old) // 2], "'{base}' cannot be read ("),
        ("model.safetensors", lambda _: None, "is damaged or incomplete ("),
    ],
)
def test_a_damaged_base_model_is_said_to_be_damaged(
    name, content, message, make_saved_case, tmp_path
):
    base = tmp_path / "base"
    shutil.copytree(make_saved_case("roberta", 2).base, base)
    damaged = content((base / name).read_bytes())
    if damaged is None:
        (base / name).unlink()
    else:
        (base / name).write_bytes(damaged)
    for load in (
        lambda: load_classifier(make_saved_case("roberta", 2).adapter, base_model=base),
        lambda: load_classifier(base),
    ):
        with pytest.raises(ValueError, match=re.escape(message.format(base=base))) as caught:
            load()
        assert "is not there" not in str(caught.value)
        assert "Restore" in str(caught.value)
