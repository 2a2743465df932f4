"""A text classifier with the uncertainty of its answers, as one object and one folder."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from adue_sklearn._utils.arrays import as_numpy
from adue_sklearn._utils.validation import naming
from adue_sklearn._utils.views import Views, text_digests
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.calibration import ErrorProbability
from adue_sklearn.calibration.score_maps import apply_score_map
from adue_sklearn.features import LoadedClassifier, ModelViews
from adue_sklearn.features._model.views import plan_views
from adue_sklearn.features._store.checks import check_count
from adue_sklearn.features.extractor import FeatureBatch, collect_features
from adue_sklearn.persistence import FittedHead, ModelFacts, check_same_model
from adue_sklearn.scorers.witnesses import use_fallback
from adue_sklearn.serving.views import views_for
from adue_sklearn.thresholds import SavedThreshold, score_sha256

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Answer:
    """A classifier's answer to a text, and how much to trust it.

    Attributes
    ----------
    label : str or number
        The classifier's own answer: the name of the class, or its label if classes have no names.
    probability : float
        Softmax probability that the classifier gives it.
    uncertainty : float
        Higher is more likely wrong; the range depends on the score.
    error_probability : float or None
        Calibrated probability that the answer is wrong, if there is a map to it.
    accepted : bool or None
        Whether the uncertainty is at most the threshold, if there is one.
    truncated : bool
        Whether the text was cut at the classifier's ``max_length``.
    fallback : bool or None
        Whether softmax response stood for a second opinion that knows nothing of the text; None if
        the score reads no second view.
    """

    label: Any
    probability: float
    uncertainty: float
    error_probability: float | None = None
    accepted: bool | None = None
    truncated: bool = False
    fallback: bool | None = None


class UncertaintyClassifier:
    """A classifier, a fitted score of its answers, and what to make of that score.

    Label and uncertainty come from one forward pass. The numbers are those of the estimators, whose
    checks of arrays are left out. Any thread may call the object; calls wait for each other.

    Parameters
    ----------
    classifier : LoadedClassifier
        From :func:`adue_sklearn.features.load_classifier`.
    head : FittedHead
        Any fitted score of its answers, from :func:`adue_sklearn.persistence.load_head`.
    threshold : SavedThreshold, default=None
        Which answers are accepted; it has to be set for this score.
    error_probability : ErrorProbability, default=None
        Probability of an error, fitted for the same classifier. It is not needed if the score of
        ``head`` is one.
    views : ModelViews, default=None
        Other models that give second views which the score reads: ``companions``, ``base``. Layers,
        and sidekicks that the score holds, need not be given; ``pool`` only if the provenance of
        ``head`` has no ``"views"`` (the ``view_facts`` of a store).
    fallback : bool, default=False
        Let softmax response stand for second views that a text lacks, instead of an error. This
        changes ``head``.
    measured : mapping of str to number or str, default=None
        Results on rows that nothing was fitted on, by name, for the model card.
    batch_tokens : int, default=8192
        Maximum tokens per batch, including padding.
    allow_other_model : bool, default=False
        Only warn if the score was fitted on features of another model.

    Raises
    ------
    ModelMismatchError
        If score and classifier do not belong together.
    ValueError
        If the threshold or the probability of an error belongs to another score.
    """

    def __init__(
        self,
        classifier: LoadedClassifier,
        head: FittedHead,
        threshold: SavedThreshold | None = None,
        error_probability: ErrorProbability | None = None,
        *,
        views: ModelViews | None = None,
        fallback: bool = False,
        measured: Mapping[str, Any] | None = None,
        batch_tokens: int = 8192,
        allow_other_model: bool = False,
    ) -> None:
        _check_type("classifier", classifier, LoadedClassifier, "load_classifier(...)")
        _check_type("head", head, FittedHead, "load_head(...)")
        if threshold is not None:
            _check_type("threshold", threshold, SavedThreshold, "load_threshold(...)")
            threshold.check_score(head.estimator)
        facts = ModelFacts(classifier.provenance, classifier.head, classifier.classes)
        check_same_model(head.facts, facts, allow_other_model=allow_other_model)
        check_count("batch_tokens", batch_tokens)
        if fallback:
            use_fallback(head.estimator)
        self.classifier = classifier
        self.head = head
        self.threshold = threshold
        self.error_probability = error_probability
        self.views = views_for(head, views)
        self.measured = dict(measured or {})
        self.batch_tokens = batch_tokens
        self._plan = plan_views(classifier, self.views)
        self._map = _error_map(head.estimator, error_probability)
        self._lock = threading.Lock()

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes in the order of the head's rows, if known."""
        return self.head.class_names or self.classifier.classes

    @property
    def config(self) -> Any:
        """The model's configuration, which ``transformers.pipeline`` may ask for."""
        return self.classifier.model.config

    @property
    def labels(self) -> list[Any]:
        """What the answers' labels are, in the order of the head's rows."""
        return self.class_names or self.estimator.classes_.tolist()

    @property
    def estimator(self) -> UncertaintyEstimator:
        """The fitted score."""
        return self.head.estimator

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        revision: str | None = None,
        base_model: str | os.PathLike[str] | None = None,
        device: str | torch.device = "auto",
        dtype: torch.dtype | None = None,
        batch_tokens: int = 8192,
    ) -> Self:
        """Load what :meth:`save_pretrained` or :meth:`push_to_hub` wrote.

        Parameters
        ----------
        folder : path or str
            The folder, or its name on the Hugging Face hub.
        revision : str, default=None
            Branch, tag or commit on the hub.
        base_model : path or str, default=None
            The adapter's base model, if it is elsewhere now.
        device : str or torch.device, default="auto"
            Where to run; "auto" is a GPU if there is one.
        dtype : torch.dtype, default=None
            Precision to run in. None: the one in which it was saved.
        batch_tokens : int, default=8192
            Maximum tokens per batch, including padding.

        Returns
        -------
        UncertaintyClassifier

        Raises
        ------
        FileNotFoundError
            If there is no such folder.
        ValueError
            If it is damaged, or was written by a newer version.
        ModelMismatchError
            If the model is another one than that whose features the score was fitted on.
        """
        from adue_sklearn.serving.folder import load

        return load(
            cls,
            folder,
            revision=revision,
            base_model=base_model,
            device=device,
            dtype=dtype,
            batch_tokens=batch_tokens,
        )

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        include_model: bool = True,
        overwrite: bool = False,
    ) -> Path:
        """Write everything but the base model to one folder of safetensors and JSON.

        Parameters
        ----------
        folder : path
            A folder that does not exist, is empty, or holds an older one.
        include_model : bool, default=True
            Copy the adapter. If False, or for a whole model, only its name is written.
        overwrite : bool, default=False
            Whether to replace an older one.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        FileExistsError
            If it holds anything else, or an older one and ``overwrite`` is False.
        ValueError
            If the classifier was loaded from a live model, which has no name.
        """
        from adue_sklearn.serving.folder import save

        with naming("folder", "the path of a folder"):
            folder = Path(folder)
        return save(self, folder, include_model=include_model, overwrite=overwrite)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        include_model: bool = True,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload a classifier with its uncertainty",
    ) -> str:
        """Upload what :meth:`save_pretrained` writes to a model repository, created if needed.

        Parameters
        ----------
        repo_id : str
            Owner and name.
        include_model : bool, default=True
            As in :meth:`save_pretrained`.
        private : bool, default=None
            Whether a new repository is private; None: as is usual for the owner.
        token : str, default=None
            None: the one that is logged in with.
        commit_message : str
            Its message.

        Returns
        -------
        str
            Address of the commit.
        """
        from adue_sklearn.serving.folder import push

        return push(
            self,
            repo_id,
            include_model=include_model,
            private=private,
            token=token,
            commit_message=commit_message,
        )

    def __call__(self, texts: str | Sequence[str]) -> Any:
        """Answer a text or several.

        Parameters
        ----------
        texts : str or sequence of str
            One text or several.

        Returns
        -------
        Answer or list of Answer
            One for a text, a list for several, in their order.
        """
        if isinstance(texts, str):
            return self.with_probabilities([texts])[1][0]
        return self.with_probabilities(texts)[1] if len(texts) else []

    def stream(self, texts: Iterable[str], *, window_rows: int = 256) -> Iterator[Answer]:
        """Answer any number of texts, in order; only a window of them is in memory.

        Parameters
        ----------
        texts : iterable of str
            The texts, read as needed.
        window_rows : int, default=256
            Texts that are read, sorted by length and run together.

        Yields
        ------
        Answer
        """
        if isinstance(texts, str):
            raise ValueError("texts: expected an iterable of str, got one str.")
        check_count("window_rows", window_rows)
        coming = iter(texts)
        while window := list(islice(coming, window_rows)):
            yield from self.with_probabilities(window)[1]

    def as_pipeline(self, **options: Any) -> Any:
        """Return a pipeline of transformers, ``"uncertainty-classification"``.

        Parameters
        ----------
        **options
            ``top_k``, ``batch_size``, ``num_workers``.

        Returns
        -------
        UncertaintyClassificationPipeline
        """
        from adue_sklearn.serving.pipeline import as_pipeline

        return as_pipeline(self, **options)

    def as_module(self) -> Any:
        """Return classifier and score as a ``torch.nn.Module``, for ``torch.export`` and others.

        It takes ``input_ids`` and ``attention_mask`` (B, T) and returns logits (B, C) and the
        uncertainty (B,), which is computed in float64. It shares its weights with the classifier
        and needs neither hooks nor arrays.

        Returns
        -------
        UncertaintyModule

        Raises
        ------
        ValueError
            If the score is neither a linear AdUE head nor a function of the logits.
        """
        from adue_sklearn.serving.module import as_module

        return as_module(self.classifier, self.estimator)

    def export_program(self) -> torch.export.ExportedProgram:
        """Return the graph of :meth:`as_module` for any number of texts of any length.

        Returns
        -------
        torch.export.ExportedProgram
            For ``torch.export.save``, ahead-of-time compilation and others.

        Raises
        ------
        ValueError
            If the score is neither a linear AdUE head nor a function of the logits.
        """
        from adue_sklearn.serving.module import export_program

        return export_program(self)

    def export_onnx(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write that graph as ONNX, with the tokenizer and what a client has to know.

        Parameters
        ----------
        folder : path
            A folder that does not exist, is empty, or holds an older one. It will hold
            ``model.onnx`` (and perhaps its weights beside it), the tokenizer, and ``served.json``:
            labels, maximum length, padding, threshold.
        overwrite : bool, default=False
            Whether to replace an older one.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        ModuleNotFoundError
            If the extra ``onnx`` is not installed.
        ValueError
            If the score is neither a linear AdUE head nor a function of the logits.
        """
        from adue_sklearn.serving.module import export_onnx

        with naming("folder", "the path of a folder"):
            folder = Path(folder)
        return export_onnx(self, folder, overwrite=overwrite)

    def with_probabilities(self, texts: Sequence[str]) -> tuple[FloatArray, list[Answer]]:
        """Return the probabilities of all classes (n, C) besides the answers.

        Parameters
        ----------
        texts : sequence of str
            One text or more.

        Returns
        -------
        probabilities : ndarray of shape (n, C)
            Columns in the order of the head's rows.
        answers : list of Answer
            One for each text.
        """
        # Hooks of the forward pass, a tokenizer's setting of truncation and torch's precision are
        # shared by all threads.
        with self._lock, torch.inference_mode():
            batch = collect_features(self.classifier, texts, self.batch_tokens, plan=self._plan)
            X = self._rows(batch, texts)
            logits = self.estimator.original_logits(X)
            uncertainty = _finite(as_numpy(self.estimator.uncertainty_of(X)).astype(np.float64))
            wrong = self._probability_of_error(X, uncertainty)
            lacking = self.estimator.lacks_view(X) if isinstance(X, Views) else None
        probabilities = as_numpy(torch.softmax(logits, dim=1))
        columns = (wrong, self._accepted(uncertainty), batch.truncated, lacking)
        return probabilities, _as_answers(self.labels, probabilities, uncertainty, columns)

    def _accepted(self, uncertainty: FloatArray) -> npt.NDArray[np.bool_] | None:
        return None if self.threshold is None else uncertainty <= self.threshold.threshold

    def _rows(self, batch: FeatureBatch, texts: Sequence[str]) -> Any:
        """Return the rows as the score reads them."""
        if not batch.views:
            return batch.features
        blocks: dict[str, Any] = batch.views
        return Views(batch.features, text_digests=text_digests(texts), **blocks)

    def _probability_of_error(self, X: Any, uncertainty: FloatArray) -> FloatArray | None:
        if self._map is None:
            return None
        if self._map is self.estimator:
            return uncertainty
        if isinstance(self._map, _SameScore):
            return self._map.of(uncertainty)
        return as_numpy(self._map.uncertainty_of(X)).astype(np.float64)


def _as_answers(
    labels: list[Any],
    probabilities: FloatArray,
    uncertainty: FloatArray,
    columns: Sequence[npt.NDArray[Any] | None],
) -> list[Answer]:
    """Return answers; ``columns`` are their last fields, None where there is no such thing."""
    rows, n_rows = probabilities.argmax(axis=1), len(probabilities)
    lists = [[None] * n_rows if column is None else column.tolist() for column in columns]
    return [
        Answer(labels[row], probability, doubt, *rest)
        for row, probability, doubt, *rest in zip(
            rows, probabilities.max(axis=1).tolist(), uncertainty.tolist(), *lists, strict=True
        )
    ]


@dataclass(frozen=True)
class _SameScore:
    """A map to P(error) from the uncertainty that is computed anyway."""

    fitted: ErrorProbability

    def of(self, uncertainty: FloatArray) -> FloatArray:
        return apply_score_map(self.fitted.method, self.fitted.score_map_, uncertainty)


def _error_map(estimator: Any, given: Any) -> Any:
    """Return what gives the probability of an error: a map, an estimator or None."""
    if given is None:
        return estimator if isinstance(estimator, ErrorProbability) else None
    _check_type("error_probability", given, ErrorProbability, "an ErrorProbability")
    if not hasattr(given, "score_map_"):
        raise ValueError("error_probability: it is not fitted; call fit first.")
    if not given.init_head_.same_as(estimator.init_head_):
        raise ValueError(
            "error_probability: it was fitted with another original head, or other classes, than "
            "the score; fit both on features of the same model."
        )
    same = score_sha256(given.estimator_) == score_sha256(estimator)
    return _SameScore(given) if same else given


def _finite(uncertainty: FloatArray) -> FloatArray:
    if not np.isfinite(uncertainty).all():
        raise ValueError(
            f"texts: the uncertainty overflows in {int((~np.isfinite(uncertainty)).sum())} of "
            f"{len(uncertainty)} rows; run the model in float32."
        )
    return uncertainty


def _check_type(name: str, value: Any, expected: type, how: str) -> None:
    if not isinstance(value, expected):
        raise ValueError(f"{name}: expected {how}, got {type(value).__name__}.")
