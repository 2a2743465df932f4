"""The task "uncertainty-classification" of ``transformers.pipeline``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from transformers import Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from adue_sklearn.serving.classifier import UncertaintyClassifier

TASK = "uncertainty-classification"
#: What an answer says beside label and score; None where there is no threshold, P(error), view.
_FIELDS = ("uncertainty", "error_probability", "accepted", "truncated", "fallback")


class UncertaintyClassificationPipeline(Pipeline):
    """Text classification with the uncertainty of each answer.

    ``pipeline("uncertainty-classification", model=clf)`` with an ``UncertaintyClassifier``, or
    ``clf.as_pipeline()``. It takes and gives what ``"text-classification"`` does, with further
    fields of the answer: ``uncertainty``, ``truncated`` and, if there are such, ``accepted``,
    ``error_probability`` and ``fallback``. With ``top_k`` they stand at the first class.

    Parameters
    ----------
    model : UncertaintyClassifier
        What answers.
    **options
        ``batch_size``, ``num_workers`` and ``top_k`` (a number of classes, None for all). Texts are
        cut at the classifier's ``max_length`` always, so ``truncation=True`` changes nothing.
    """

    _load_tokenizer: Any = False
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False

    def __init__(self, model: UncertaintyClassifier, device: Any = None, **options: Any) -> None:
        if not isinstance(model, UncertaintyClassifier):
            raise ValueError(
                f"model: expected an UncertaintyClassifier, got {type(model).__name__}. "
                "UncertaintyClassifier.from_pretrained(FOLDER) loads one."
            )
        there = model.classifier.device
        if device is not None and torch.device(device) != there:
            raise ValueError(
                f"device: {device!r} was asked for, but the classifier was loaded on {there}; load "
                "it where it is to run (device=)."
            )
        self.answering = model
        loaded = model.classifier
        super().__init__(model=loaded.model, tokenizer=loaded.tokenizer, device=there, **options)

    def _sanitize_parameters(
        self, top_k: Any = "", truncation: Any = True, max_length: int | None = None, **unknown: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        longest = self.answering.classifier.max_length
        if truncation is not True or max_length not in (None, longest):
            raise ValueError(
                f"truncation, max_length: texts are always cut at {longest} tokens, the length "
                "with which the classifier was loaded; leave both out. 'truncated' says of each "
                "text whether it was cut."
            )
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: unknown here; expected top_k or batch_size.")
        # "" is what text-classification takes for one class, in its older format.
        return {}, {}, {} if top_k == "" else {"top_k": top_k}

    def __call__(self, inputs: Any, *args: Any, **options: Any) -> Any:
        """Answer a text, a list of them, or an iterator.

        Parameters
        ----------
        inputs : str, list of str, generator or data set
            The texts.
        *args
            None, as in every pipeline.
        **options
            ``top_k``, ``batch_size``.

        Returns
        -------
        list of dict, or an iterator
            One for a text; with ``top_k``, a list of classes for each text.
        """
        result = super().__call__(inputs, *args, **options)
        older = "top_k" not in options
        return [result] if isinstance(inputs, str) and older else result

    def preprocess(self, input_: Any, **options: Any) -> Any:
        """Take one text."""
        if not isinstance(input_, str):
            raise ValueError(f"inputs: expected texts, got a {type(input_).__name__}.")
        return {"texts": input_}

    def _forward(self, input_tensors: Any, **options: Any) -> Any:
        texts = input_tensors["texts"]
        one = isinstance(texts, str)  # of a batch that is none
        probabilities, answers = self.answering.with_probabilities([texts] if one else texts)
        rows = zip(probabilities.tolist(), map(asdict, answers), strict=True)
        outputs = [{"probabilities": p, **answer} for p, answer in rows]
        return {"outputs": outputs[0] if one else outputs}

    def postprocess(self, model_outputs: Any, **options: Any) -> Any:
        """Make the output of one text."""
        found, top_k = model_outputs["outputs"], options.get("top_k", 1)
        further = {name: found[name] for name in _FIELDS if found[name] is not None}
        names = self.answering.labels
        order = np.argsort(-np.array(found["probabilities"]), kind="stable")[:top_k]
        classes = [{"label": names[n], "score": found["probabilities"][n]} for n in order.tolist()]
        classes[0] = {"label": found["label"], "score": found["probability"], **further}
        return classes if options else classes[0]


def as_pipeline(clf: UncertaintyClassifier, **options: Any) -> UncertaintyClassificationPipeline:
    """Return the pipeline of a classifier."""
    return UncertaintyClassificationPipeline(clf, task=TASK, **options)


PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=UncertaintyClassificationPipeline)
