"""Where training happens: uncertainty that is fitted and judged after each evaluation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.model_selection import GroupShuffleSplit
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from adue_sklearn._utils.head import Head
from adue_sklearn._utils.validation import naming, warn
from adue_sklearn.adue import AdUEEstimator, AdUESearchCV
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.comparison.result import FEW_ERRORS
from adue_sklearn.features import compute_features, load_classifier
from adue_sklearn.features._model.adapters import live_sha256
from adue_sklearn.features._model.batching import check_texts
from adue_sklearn.features._model.labels import label_rows
from adue_sklearn.features._model.loading import resolve_classes
from adue_sklearn.metrics import aurc_score, error_roc_auc_score
from adue_sklearn.persistence import save_head
from adue_sklearn.persistence.heads import check_target as check_head_folder
from adue_sklearn.scorers import SoftmaxResponseScorer
from adue_sklearn.selective import check_target, selective_threshold

__all__ = ["UncertaintyCallback"]

#: What begins the names of the logged numbers; loggers show them as ``eval/uncertainty/...``.
PREFIX = "eval_uncertainty/"


class _Rows(NamedTuple):
    """Features and labels of some rows."""

    X: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Findings:
    """What one state of the model gave."""

    model_sha256: str
    metrics: dict[str, float]
    adue: UncertaintyEstimator | None  # None: there are too few errors to learn from
    fit_rows: _Rows
    provenance: dict[str, Any]
    classes: list[str] | None


class UncertaintyCallback(TrainerCallback):
    """Log after each evaluation of a Trainer how well softmax response and AdUE find errors.

    The held-out rows are split once, at random; copies of a text stay together. One half fits AdUE,
    the other one judges both scores. Features come from a copy of the model, so that training goes
    on exactly as without the callback. Logged are, for ``softmax_response`` and ``adue``:

    - ``eval_uncertainty/error_roc_auc_SCORE``: ROC-AUC of finding errors;
    - ``eval_uncertainty/aurc_SCORE``: area under the risk-coverage curve;
    - ``eval_uncertainty/coverage_at_RISK_SCORE``: share of the answers that can be accepted with an
      error rate of at most ``target_risk``, guaranteed with ``confidence``.

    Parameters
    ----------
    trainer : Trainer
        The trainer that the callback is added to. The numbers go through its ``log``, and so to
        each of its loggers and to ``trainer.state.log_history``.
    texts : sequence of str
        Held-out texts, on which the model is not trained.
    labels : array-like of shape (n_texts,)
        Their true labels: integers are row numbers of the head, strings need class names.
    target_risk, confidence : float in (0, 1), default=0.05 and 0.95
        As in :func:`adue_sklearn.selective.selective_threshold`.
    save_to : path, default=None
        Where the AdUE head of the final model is saved at the end of training, such as a folder
        inside that of the adapter; :func:`adue_sklearn.persistence.load_head` reads it. An older
        head there is replaced.
    estimator : AdUEEstimator or AdUESearchCV, default=None
        It is cloned for each fit. None is ``AdUEEstimator()``.
    tokenizer : PreTrainedTokenizerBase, default=None
        By default the trainer's ``processing_class``.
    classes : sequence of str, default=None
        Class names in the order of the head's rows; by default the model's ``id2label``, if set.
    max_length : int, default=None
        Maximum tokens per text, best the same as in training; by default what tokenizer and model
        allow.
    batch_tokens : int, default=8192
        Maximum tokens per batch, including padding.
    random_state : int, default=0
        Seed of the split.

    Raises
    ------
    ValueError
        If texts, labels or risks cannot be used, or there is no tokenizer.
    FileExistsError
        If ``save_to`` holds anything but a saved head.

    Warns
    -----
    UserWarning
        Once, if there are too few errors or correct answers for AdUE, which is then left out; at
        the end of training, if ``save_to`` is not written because of it.

    Notes
    -----
    The guarantee is that of one look. Whoever chooses among evaluations by these numbers has to
    confirm the choice on fresh rows (``adue threshold``). For this reason the numbers are not added
    to the evaluation's metrics, of which the Trainer chooses the best model.

    The model is copied for each evaluation, which takes memory for one more model. Models whose
    parameters lie on several devices (FSDP, DeepSpeed ZeRO-3) cannot be copied in this way. With
    several processes the first one computes and the others wait for it at their next step.
    """

    def __init__(
        self,
        trainer: Any,
        texts: Sequence[str],
        labels: Any,
        *,
        target_risk: float = 0.05,
        confidence: float = 0.95,
        save_to: str | os.PathLike[str] | None = None,
        estimator: AdUEEstimator | AdUESearchCV | None = None,
        tokenizer: Any = None,
        classes: Sequence[str] | None = None,
        max_length: int | None = None,
        batch_tokens: int = 8192,
        random_state: int = 0,
    ) -> None:
        if not callable(getattr(trainer, "log", None)):
            raise ValueError(
                f"trainer is a {type(trainer).__name__}; expected the transformers Trainer that "
                "the callback is added to."
            )
        check_target(target_risk, "target_risk")
        check_target(confidence, "confidence")
        if estimator is not None and not isinstance(estimator, AdUEEstimator | AdUESearchCV):
            raise ValueError(
                f"estimator is a {type(estimator).__name__}; expected an AdUEEstimator, an "
                "AdUESearchCV or None."
            )
        self.trainer = trainer
        self.tokenizer = (
            getattr(trainer, "processing_class", None) if tokenizer is None else tokenizer
        )
        if self.tokenizer is None:
            raise ValueError(
                "tokenizer: the trainer has none. Pass Trainer(processing_class=tokenizer), or "
                "tokenizer= here."
            )
        self.texts = check_texts(texts)
        config = trainer.model.config
        self.classes = resolve_classes(classes, config, config.num_labels)
        rows = label_rows(labels, len(self.texts), self.classes, config.num_labels)
        if rows is None:
            raise ValueError("labels is None; expected the true label of each text.")
        self.y = rows
        self.fit_part, self.judged_part = _halves(self.texts, random_state)
        self.target_risk, self.confidence = target_risk, confidence
        self.estimator = AdUEEstimator() if estimator is None else estimator
        self.max_length, self.batch_tokens = max_length, batch_tokens
        self.save_to: Path | None = None
        if save_to is not None:
            with naming("save_to", "the path of a folder"):
                self.save_to = Path(save_to)
            check_head_folder(self.save_to)
        self._found: _Findings | None = None
        self._logged: tuple[int, str] | None = None
        self._has_warned = False

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """Fit, judge and log; the same model at the same step once, however many data sets."""
        if not state.is_world_process_zero:
            return
        found = self._findings(model)
        if self._logged != (state.global_step, found.model_sha256):
            self._logged = state.global_step, found.model_sha256
            self.trainer.log(dict(found.metrics))

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """Save the head of the final model, which may be an earlier one that was the best."""
        if self.save_to is None or not state.is_world_process_zero:
            return
        found = self._findings(model)
        if found.adue is None:
            warn(
                f"save_to: '{self.save_to}' is not written, because the final model makes too few "
                "errors or correct answers on the held-out texts to fit AdUE. Pass more of them."
            )
            return
        save_head(
            found.adue,
            self.save_to,
            provenance=found.provenance,
            class_names=found.classes,
            fitted_on=found.fit_rows.X,
        )

    def _findings(self, model: Any) -> _Findings:
        """Return what this model gives; the last one's is known."""
        sha256 = live_sha256(model)
        if self._found is None or self._found.model_sha256 != sha256:
            self._found = self._fit_and_judge(model, sha256)
        return self._found

    def _fit_and_judge(self, model: Any, sha256: str) -> _Findings:
        classifier = load_classifier(
            model, tokenizer=self.tokenizer, classes=self.classes, max_length=self.max_length
        )
        X, _ = compute_features(classifier, self.texts, batch_tokens=self.batch_tokens)
        fit_rows, judged = (
            _Rows(X[part], self.y[part]) for part in (self.fit_part, self.judged_part)
        )
        head = classifier.head
        softmax = SoftmaxResponseScorer().fit(*fit_rows, head)
        metrics = dict(self._judge("softmax_response", softmax, judged))
        adue = self._fit_adue(softmax, fit_rows, head)
        if adue is not None:
            metrics |= self._judge("adue", adue, judged)
        return _Findings(
            sha256, metrics, adue, fit_rows, dict(classifier.provenance), classifier.classes
        )

    def _fit_adue(
        self, softmax: UncertaintyEstimator, rows: _Rows, head: Head
    ) -> UncertaintyEstimator | None:
        """Fit AdUE, unless too few rows show when the model is wrong, or when it is right."""
        n_errors, n_rows = int(np.sum(softmax.errors(*rows))), len(rows.y)
        if min(n_errors, n_rows - n_errors) >= FEW_ERRORS:
            return clone(self.estimator).fit(*rows, head)
        if not self._has_warned:
            self._has_warned = True
            warn(
                f"The model makes {n_errors} errors on the {n_rows} held-out texts that fit AdUE; "
                f"at least {FEW_ERRORS} errors and {FEW_ERRORS} correct answers are needed. Only "
                "softmax response is logged until there are. Pass more held-out texts."
            )
        return None

    def _judge(
        self, name: str, score: UncertaintyEstimator, rows: _Rows
    ) -> Iterator[tuple[str, float]]:
        """Yield the numbers of one score; no ROC-AUC if all answers are right, or all wrong."""
        errors, uncertainty = score.errors(*rows), score.predict_uncertainty(rows.X)
        if 0 < np.sum(errors) < len(errors):
            yield f"{PREFIX}error_roc_auc_{name}", float(error_roc_auc_score(errors, uncertainty))
        yield f"{PREFIX}aurc_{name}", float(aurc_score(errors, uncertainty))
        found = selective_threshold(errors, uncertainty, self.target_risk, self.confidence)
        yield f"{PREFIX}coverage_at_{self.target_risk:g}_{name}", float(found.coverage)


def _halves(
    texts: Sequence[str], random_state: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Split rows at random, not by label, since guarantees need independent rows."""
    if len(set(texts)) < 2:
        raise ValueError("texts: expected at least two different ones, to fit on and to judge.")
    split = GroupShuffleSplit(n_splits=1, train_size=0.5, random_state=random_state)
    fit_part, judged_part = next(split.split(texts, groups=texts))
    return np.sort(fit_part), np.sort(judged_part)
