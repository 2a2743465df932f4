"""A Trainer's callback: uncertainty fitted and judged after each evaluation, training untouched."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from adue_sklearn import AdUEEstimator, SoftmaxResponseScorer
from adue_sklearn.features import compute_features, load_classifier
from adue_sklearn.metrics import aurc_score, error_roc_auc_score
from adue_sklearn.model_selection import count_shared_rows
from adue_sklearn.persistence import ModelFacts, check_same_model, load_head
from adue_sklearn.selective import selective_threshold
from adue_sklearn.serving import UncertaintyCallback
from tests.lora_cases import make_texts
from tests.marks import odd_rows
from tests.serving_cases import snippets

pytestmark = odd_rows

HELD_OUT = make_texts(120, longest=12, seed=5)
LABELS = np.random.default_rng(5).integers(0, 2, len(HELD_OUT))
ADUE = AdUEEstimator(beta=1, lam=5)  # converges soon


class Watcher(TrainerCallback):
    """A logger: keeps what reaches it."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))


def make_trainer(case, folder, **changes):
    """Return a trainer of two steps with dropout, an evaluation after each, and its logger."""
    torch.manual_seed(0)
    model = copy.deepcopy(case.live)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "lora_" in name or "modules_to_save" in name
    rows = [
        {**case.tokenizer(text), "labels": int(label)}
        for text, label in zip(HELD_OUT[:16], LABELS, strict=False)
    ]
    options = {"eval_strategy": "steps", "eval_steps": 1, "logging_steps": 1, "max_steps": 2}
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        learning_rate=0.01,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        **options | changes,
    )
    watcher = Watcher()
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=rows[:8],
        processing_class=case.tokenizer,
        callbacks=[watcher],
    )
    return trainer, watcher


@pytest.fixture(scope="module")
def case(make_saved_case):
    return make_saved_case("roberta", 2)


@pytest.fixture(scope="module")
def plain(case, tmp_path_factory):
    """Hold a training without the callback."""
    trainer, watcher = make_trainer(case, tmp_path_factory.mktemp("plain"))
    trainer.train()
    return trainer, watcher


@pytest.fixture(scope="module")
def observed(case, tmp_path_factory):
    """Hold a training with the callback, and the folder of adapter and head."""
    folder = tmp_path_factory.mktemp("observed")
    trainer, watcher = make_trainer(case, folder)
    callback = UncertaintyCallback(
        trainer, HELD_OUT, LABELS, target_risk=0.4, estimator=ADUE, save_to=folder / "end" / "adue"
    )
    trainer.add_callback(callback)
    trainer.train()
    trainer.save_model(str(folder / "end"))
    return trainer, watcher, callback, folder / "end"


def ours(entries):
    return [entry for entry in entries if any("uncertainty" in name for name in entry)]


def test_logged_numbers_are_those_of_the_package_on_the_same_rows(observed):
    trainer, _, callback, _ = observed
    classifier = load_classifier(trainer.model, tokenizer=trainer.processing_class)
    X, _ = compute_features(classifier, HELD_OUT)
    fit, judged = callback.fit_part, callback.judged_part
    expected = {}
    for name, score in {"softmax_response": SoftmaxResponseScorer(), "adue": ADUE}.items():
        score.fit(X[fit], LABELS[fit], classifier.head)
        errors = score.errors(X[judged], LABELS[judged])
        uncertainty = score.predict_uncertainty(X[judged])
        coverage = selective_threshold(errors, uncertainty, 0.4).coverage
        expected[f"eval_uncertainty/error_roc_auc_{name}"] = error_roc_auc_score(
            errors, uncertainty
        )
        expected[f"eval_uncertainty/aurc_{name}"] = aurc_score(errors, uncertainty)
        expected[f"eval_uncertainty/coverage_at_0.4_{name}"] = coverage
    last = ours(trainer.state.log_history)[-1]
    assert last == {**expected, "epoch": 1.0, "step": 2}


def test_every_logger_gets_them_once_after_each_evaluation(observed):
    trainer, watcher, _, _ = observed
    assert len(ours(watcher.logs)) == 2
    assert [entry["step"] for entry in ours(trainer.state.log_history)] == [1, 2]
    assert ours(watcher.logs)[0] != ours(watcher.logs)[1]


def test_halves_share_no_text_and_cover_all(observed):
    _, _, callback, _ = observed
    fit, judged = callback.fit_part, callback.judged_part
    assert sorted([*fit, *judged]) == list(range(len(HELD_OUT)))
    assert not {HELD_OUT[row] for row in fit} & {HELD_OUT[row] for row in judged}


def test_training_is_bit_identical_with_and_without(plain, observed):
    before, after = plain[0], observed[0]
    theirs = dict(before.model.named_parameters())
    for name, parameter in after.model.named_parameters():
        assert torch.equal(parameter, theirs[name]), name
    losses = [
        [entry[name] for entry in trainer.state.log_history for name in entry if "loss" in name]
        for trainer in (before, after)
    ]
    assert losses[0] == losses[1]
    assert any(module.p > 0 for module in after.model.modules() if type(module) is torch.nn.Dropout)


def test_nothing_of_the_model_changes_in_an_evaluation(case, tmp_path):
    trainer, watcher = make_trainer(case, tmp_path)
    callback = UncertaintyCallback(trainer, HELD_OUT, LABELS, estimator=ADUE)
    trainer.model.train()
    trainer.model.get_base_model().classifier.eval()

    def state():
        modules = {name: module.training for name, module in trainer.model.named_modules()}
        parameters = {
            name: (value.requires_grad, value.device, value.dtype, value.data_ptr())
            for name, value in trainer.model.named_parameters()
        }
        return modules, parameters, torch.get_rng_state().tolist(), torch.get_num_threads()

    before = state()
    callback.on_evaluate(trainer.args, trainer.state, trainer.control, model=trainer.model)
    assert state() == before
    assert len(ours(watcher.logs)) == 1


def test_the_saved_head_belongs_to_the_adapter_that_the_trainer_saves(case, observed):
    _, _, callback, folder = observed
    classifier = load_classifier(folder, base_model=case.base)
    head = load_head(folder / "adue")
    X, _ = compute_features(classifier, HELD_OUT)
    facts = ModelFacts(classifier.provenance, classifier.head, classifier.classes)
    with pytest.warns(UserWarning, match="other conditions .*model: None"):
        check_same_model(head.facts, facts)
    assert head.provenance["adapter_sha256"] == classifier.provenance["adapter_sha256"]
    assert count_shared_rows(X[callback.fit_part], X) == len(callback.fit_part)
    ADUE.fit(X[callback.fit_part], LABELS[callback.fit_part], classifier.head)
    np.testing.assert_allclose(
        head.estimator.predict_uncertainty(X), ADUE.predict_uncertainty(X), atol=1e-5
    )


def test_too_few_errors_leave_adue_out_and_say_so_once(case, tmp_path):
    trainer, watcher = make_trainer(case, tmp_path)
    callback = UncertaintyCallback(trainer, HELD_OUT[:20], LABELS[:20], save_to=tmp_path / "adue")
    trainer.add_callback(callback)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer.train()
        trainer.evaluate()  # the same model again
    said = [str(warning.message) for warning in told]
    assert sum("Only softmax response" in message for message in said) == 1
    assert sum("is not written" in message for message in said) == 1
    assert len(ours(watcher.logs)) == 2
    assert not any("adue" in name for entry in watcher.logs for name in entry)
    assert not (tmp_path / "adue").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainer": None}, "trainer is a NoneType; expected the transformers Trainer"),
        ({"labels": LABELS[:3]}, "labels: expected one per text"),
        ({"labels": None}, "labels is None"),
        ({"texts": ["w1"] * 120}, "at least two different"),
        ({"target_risk": 5}, "target_risk is 5"),
        ({"estimator": SoftmaxResponseScorer()}, "estimator is a SoftmaxResponseScorer"),
    ],
)
def test_bad_input_is_refused_before_training(plain, change, message):
    given = {"trainer": plain[0], "texts": HELD_OUT, "labels": LABELS} | change
    with pytest.raises(ValueError, match=message):
        UncertaintyCallback(**given)


def test_a_folder_of_other_files_is_refused_before_training(plain, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        UncertaintyCallback(plain[0], HELD_OUT, LABELS, save_to=tmp_path)


def test_the_lines_of_the_documentation_add_it(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer, _ = make_trainer(case, tmp_path)
    (lines,) = snippets("While it is trained")
    exec(lines, {"trainer": trainer, "texts": HELD_OUT, "labels": LABELS})
    assert isinstance(trainer.callback_handler.callbacks[-1], UncertaintyCallback)
