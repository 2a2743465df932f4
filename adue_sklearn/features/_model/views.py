"""Views of a row beside what enters the head: other layers, no adapter, other adapters."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import torch

from adue_sklearn.features._model.batching import Encoded, encode, pad, padding_mask
from adue_sklearn.features._model.hooks import hidden_states_of, model_logits
from adue_sklearn.features._model.loading import LoadedClassifier
from adue_sklearn.features._store.checks import check_view_name
from adue_sklearn.features._store.companions import class_order

Pool = Literal["mean", "first", "last"]
FloatArray = npt.NDArray[np.float32]

#: The view of the model whose adapter is switched off.
BASE = "base"


def check_pool(pool: Any) -> Pool:
    """Return how layers are pooled."""
    if not (isinstance(pool, str) and pool in get_args(Pool)):
        raise ValueError(f"pool: expected 'mean', 'first' or 'last', got {pool!r}.")
    return cast(Pool, pool)


@dataclass(frozen=True, eq=False)
class TextView:
    """Another classifier of the texts themselves, which needs no forward pass.

    Attributes
    ----------
    log_proba : callable
        Takes a list of n texts and returns log-probabilities (n, n_classes); a row of NaN where
        it knows nothing of a text.
    n_classes : int
        Number of its classes.
    classes : sequence of str, optional
        Their names. None: the main classifier's, in the same order.
    provenance : mapping, optional
        Facts about its origin, anything JSON can hold.
    """

    log_proba: Callable[[Sequence[str]], npt.ArrayLike]
    n_classes: int
    classes: Sequence[str] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """What a store records of the view."""
        return {
            "n_columns": self.n_classes,
            "kind": "log-probabilities",
            "may_lack_rows": True,
            "provenance": dict(self.provenance),
        }

    def order(self, classes: Sequence[str] | None, n_classes: int) -> list[int]:
        """Return where in its classes each of a head's is.

        Parameters
        ----------
        classes : sequence of str or None
            Names of the head's classes.
        n_classes : int
            Their number.

        Returns
        -------
        list of int
            One place for each of the head's classes.

        Raises
        ------
        ValueError
            If the classes are others.
        """
        if classes is not None and self.classes is None:
            raise ValueError(
                "its classes have no names, but those of the main head have; fit it on the same "
                "names (--classes)."
            )
        return class_order(classes, n_classes, self.classes, self.n_classes)

    def of(self, texts: Sequence[str], order: Sequence[int]) -> FloatArray:
        """Return the view of texts, its columns in another order.

        Parameters
        ----------
        texts : sequence of str
            The n texts.
        order : sequence of int
            Which of its classes each column is.

        Returns
        -------
        ndarray of shape (n, n_classes), float32
        """
        log_proba: FloatArray = np.asarray(self.log_proba(list(texts)), dtype=np.float32)
        return log_proba[:, list(order)]


@dataclass(frozen=True, eq=False)
class ModelViews:
    """Which views of each row are extracted beside what enters the head, in the same pass.

    Layers come from the classifier's own run over a batch; the base and every companion run over
    the same tokens once more.

    Attributes
    ----------
    layers : sequence of int or "all", default=()
        Layers of the transformer, counted from 1, whose output is pooled over a text's tokens;
        views ``layer_1``, ``layer_2``, ... (n, n_hidden). They are what transformers returns as
        ``hidden_states``: of most decoders the last one is already normed.
    pool : {"mean", "first", "last"}, default="mean"
        Mean of a text's tokens, or its first or last one; never padding.
    base : LoadedClassifier, optional
        The same adapter loaded with ``without_adapter=True``; view ``base`` (n, n_features): what
        would enter the head.
    companions : mapping of str to LoadedClassifier, optional
        Other classifiers of the same classes, with an equal tokenizer, by the names of their views
        (n, n_classes): log-probabilities in the order of the main classifier's classes.
    texts : mapping of str to TextView, optional
        Classifiers of the texts, by the names of their views (n, n_classes); also in that order.
    """

    layers: Sequence[int] | Literal["all"] = ()
    pool: Pool = "mean"
    base: LoadedClassifier | None = None
    companions: Mapping[str, LoadedClassifier] = field(default_factory=dict)
    texts: Mapping[str, TextView] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no classifier could give."""
        if not (self.layers == "all" or _are_numbers(self.layers)):
            raise ValueError(
                f"layers: expected 'all' or a list of layer numbers, got {self.layers!r}."
            )
        if len(set(self.layers)) < len(self.layers) and self.layers != "all":
            raise ValueError(
                f"layers: a number stands there twice ({self.layers!r}); name each layer once."
            )
        check_pool(self.pool)
        _check_base(self.base)
        _check_companions(self.companions)
        _check_text_views(self.texts)


@dataclass(frozen=True, eq=False)
class ViewPlan:
    """Views that were checked against the classifier.

    Attributes
    ----------
    facts : dict of str to dict
        Name of each view, and what a store records of it.
    layers : dict of str to int
        Layers by the names of their views.
    pool : {"mean", "first", "last"}
        How they are pooled.
    base : LoadedClassifier or None
        The model whose adapter is switched off.
    companions : dict of str to (LoadedClassifier, list of int)
        Other classifiers, and where in their classes each of the main one's is.
    texts : dict of str to (TextView, list of int)
        Classifiers of the texts, likewise.
    vocabulary : int
        Number of token embeddings that all the models have.
    """

    facts: dict[str, dict[str, Any]]
    layers: dict[str, int]
    pool: Pool
    base: LoadedClassifier | None
    companions: dict[str, tuple[LoadedClassifier, list[int]]]
    texts: dict[str, tuple[TextView, list[int]]]
    vocabulary: int

    def pooled(
        self, states: Sequence[torch.Tensor], mask: npt.NDArray[np.bool_]
    ) -> dict[str, FloatArray]:
        """Return the pooled layers (B, n_hidden) of hidden states (B, T, n_hidden)."""
        return {
            name: _pooled(states[layer], mask, self.pool) for name, layer in self.layers.items()
        }

    def of_texts(self, texts: Sequence[str]) -> dict[str, FloatArray]:
        """Return the views (n, n_classes) that need the texts alone."""
        return {name: view.of(texts, order) for name, (view, order) in self.texts.items()}


def plan_views(classifier: LoadedClassifier, views: ModelViews | None) -> ViewPlan:
    """Check which views are asked for; raise ValueError if the models cannot give them."""
    views = ModelViews() if views is None else views
    if not isinstance(views, ModelViews):
        raise ValueError(f"views: expected ModelViews(...), got {type(views).__name__}.")
    facts = _layer_facts(classifier, views)
    layers = {name: view["provenance"]["layer"] for name, view in facts.items()}
    models = [classifier]
    if views.base is not None:
        _check_same_adapter(classifier, views.base)
        _check_same_tokens(classifier, views.base, BASE)
        facts[BASE] = _facts(views.base, views.base.n_features, "features")
        models.append(views.base)
    companions = {}
    for name, companion in views.companions.items():
        what = f"companion {name!r}"
        if name in facts:
            raise ValueError(f"companions: {name!r} also names another view; use another name.")
        _check_same_tokens(classifier, companion, what)
        try:
            order = class_order(
                classifier.classes, classifier.n_classes, companion.classes, companion.n_classes
            )
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from error
        companions[name] = companion, order
        facts[name] = _facts(companion, companion.n_classes, "log-probabilities")
        models.append(companion)
    text_views = {}
    for name, view in views.texts.items():
        if name in facts:
            raise ValueError(f"texts: {name!r} also names another view; use another name.")
        try:
            order = view.order(classifier.classes, classifier.n_classes)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        text_views[name] = view, order
        facts[name] = view.facts
    vocabulary = min(model.vocabulary for model in models)
    return ViewPlan(facts, layers, views.pool, views.base, companions, text_views, vocabulary)


def _layer_facts(classifier: LoadedClassifier, views: ModelViews) -> dict[str, dict[str, Any]]:
    if len(views.layers) == 0:
        return {}
    widths = _layer_widths(classifier)
    known = range(1, len(widths) + 1)
    numbers = known if views.layers == "all" else sorted(map(int, views.layers))
    for number in numbers:
        if number not in known:
            raise ValueError(
                f"layers: {number} is not a layer of {type(classifier.model).__name__}, which has "
                f"{len(widths)}; expected numbers from 1 to {len(widths)}."
            )
    return {
        f"layer_{number}": {
            "n_columns": widths[number - 1],
            "kind": "features",
            "provenance": {
                "layer": number,
                "pool": views.pool,
                "adapter_sha256": classifier.provenance.get("adapter_sha256"),
            },
        }
        for number in numbers
    }


def _are_numbers(layers: Any) -> bool:
    return (
        isinstance(layers, Sequence | np.ndarray)
        and not isinstance(layers, str)
        and all(type(layer) is int or isinstance(layer, np.integer) for layer in layers)
    )


def _layer_widths(classifier: LoadedClassifier) -> list[int]:
    """Run a text; return how wide the output of each layer is."""
    encoded = encode(
        classifier.tokenizer, ["A short text."], classifier.max_length, classifier.vocabulary
    )
    inputs = padded(classifier, encoded, np.array([0]))
    with hidden_states_of(classifier.model) as kept:
        try:
            model_logits(classifier.model, inputs)
        except TypeError:  # it does not know the argument
            kept.append(())
    states = kept[0]
    shape = inputs["input_ids"].shape
    if len(states) < 2 or any(state.ndim != 3 or state.shape[:2] != shape for state in states):
        raise ValueError(
            f"layers: {type(classifier.model).__name__} returns no hidden states of its layers, "
            "one for each token; leave layers out."
        )
    return [int(state.shape[-1]) for state in states[1:]]


def padded(
    classifier: LoadedClassifier, encoded: Encoded, rows: npt.NDArray[np.int64]
) -> dict[str, torch.Tensor]:
    """Return these rows as a padded batch for a model."""
    return pad(
        encoded,
        rows,
        names=classifier.input_names,
        pad_id=classifier.pad_id,
        side=classifier.padding_side,
        device=classifier.device,
    )


def mask_of(
    classifier: LoadedClassifier, encoded: Encoded, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Return which tokens of such a batch are no padding: (B, T)."""
    return padding_mask(encoded.lengths[rows], classifier.padding_side)


def _pooled(state: torch.Tensor, mask: npt.NDArray[np.bool_], pool: Pool) -> FloatArray:
    real = torch.from_numpy(mask).to(state.device)
    if pool == "mean":
        # Padding may hold NaN, which no factor of nought takes away.
        sums = torch.where(real.unsqueeze(-1), state.float(), 0.0).sum(dim=1)
        result = sums / real.sum(dim=1, keepdim=True)
    else:
        first = real.int().argmax(dim=1)
        position = first if pool == "first" else first + real.sum(dim=1) - 1
        result = state[torch.arange(len(state), device=state.device), position].float()
    array: FloatArray = result.cpu().numpy()
    return array


def _check_companions(companions: Any) -> None:
    if not isinstance(companions, Mapping):
        raise ValueError(
            "companions: expected names and classifiers, such as {'other': load_classifier(...)}, "
            f"got {type(companions).__name__}."
        )
    for name, companion in companions.items():
        check_view_name(name, "companions")
        if not isinstance(companion, LoadedClassifier):
            raise ValueError(
                f"companion {name!r}: expected a result of load_classifier, got "
                f"{type(companion).__name__}."
            )


def _check_text_views(views: Any) -> None:
    if not isinstance(views, Mapping):
        raise ValueError(
            "texts: expected names and text classifiers, such as {'sidekick': TextView(...)}, got "
            f"{type(views).__name__}."
        )
    for name, view in views.items():
        check_view_name(name, "texts")
        if not isinstance(view, TextView):
            raise ValueError(f"texts: {name!r} is a {type(view).__name__}; expected a TextView.")


def _check_base(base: Any) -> None:
    loaded = isinstance(base, LoadedClassifier)
    if base is not None and not (loaded and base.provenance.get("without_adapter")):
        raise ValueError(
            "base: expected load_classifier(..., without_adapter=True), got "
            f"{'a classifier with its adapter' if loaded else type(base).__name__}."
        )


def _check_same_adapter(classifier: LoadedClassifier, base: LoadedClassifier) -> None:
    adapters = [model.provenance["adapter_sha256"] for model in (classifier, base)]
    if adapters[0] != adapters[1]:
        raise ValueError(
            "base: it was loaded from another adapter than the classifier; load the same one with "
            "without_adapter=True."
        )


def _check_same_tokens(classifier: LoadedClassifier, other: LoadedClassifier, what: str) -> None:
    """Raise unless another model would be given the same tokens of every text."""
    if _tokenizer_facts(classifier.tokenizer) != _tokenizer_facts(other.tokenizer):
        raise ValueError(
            f"{what}: its tokenizer is not equal to the main classifier's, whose tokens it would "
            "be given. Extract the same texts into a store of its own, and join it: "
            "store.views(companions={...})."
        )
    if classifier.max_length != other.max_length:
        raise ValueError(
            f"{what}: it was loaded with max_length={other.max_length}, the main classifier with "
            f"{classifier.max_length}; load both with the same."
        )


def _tokenizer_facts(tokenizer: Any) -> dict[str, Any]:
    """Return all that decides which tokens a tokenizer gives."""
    facts: dict[str, Any] = {"truncation_side": tokenizer.truncation_side}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        special = tokenizer.special_tokens_map
        return facts | {"type": type(tokenizer), "vocab": tokenizer.get_vocab(), "special": special}
    rules = json.loads(backend.to_str())
    # What the last call left behind; each call sets them anew.
    return facts | rules | {"truncation": None, "padding": None}


def _facts(classifier: LoadedClassifier, n_columns: int, kind: str) -> dict[str, Any]:
    # Versions are those of the main classifier, which are recorded with it.
    provenance = {key: value for key, value in classifier.provenance.items() if key != "versions"}
    return {"n_columns": n_columns, "kind": kind, "provenance": provenance}
