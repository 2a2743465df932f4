"""The model card of an ``UncertaintyClassifier``: what it is for, what was measured, its limits."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from adue_sklearn._utils.messages import one_line
from adue_sklearn.persistence import FIT_ROWS

_USE = """```python
from adue_sklearn.serving import UncertaintyClassifier

clf = UncertaintyClassifier.from_pretrained({place})
print(clf("A text."))  # label, probability, uncertainty
```"""


def model_card(clf: Any, base: str) -> str:
    """Return the card of an ``UncertaintyClassifier`` in Markdown; ``base`` is its base model."""
    return "\n\n".join(_parts(clf, base)) + "\n"


def _parts(clf: Any, base: str) -> Iterator[str]:
    facts, card = clf.classifier.provenance, clf.estimator.card
    yield _front_matter(base)
    yield "# A text classifier that says when not to trust it"
    yield (
        "Every answer comes with an uncertainty, which is higher where the answer is more likely "
        "wrong. The classifier and its answers are those of the adapter alone."
    )
    yield _USE.format(place='"FOLDER or owner/name"')
    yield "## What it is"
    yield _list(
        {
            "base model": base,
            "adapter": facts.get("adapter_sha256") or facts["model"],
            "classes": ", ".join(clf.class_names or map(str, clf.estimator.classes_.tolist())),
            "longest text": f"{clf.classifier.max_length} tokens; longer ones are cut",
            "uncertainty": f"{type(clf.estimator).__name__} ({card.name}): {card.formula}",
            "source": card.paper,
        }
    )
    yield "## Measured"
    yield _measured(clf)
    yield "## Intended use"
    yield (
        "Answer texts of the kind that the classifier was trained for, and hand on to people those "
        "whose uncertainty is high."
    )
    yield "## Limits"
    yield "\n".join(f"- {limit}" for limit in _limits(clf, base))


def _front_matter(base: str) -> str:
    lines = ["library_name: adue-sklearn", "pipeline_tag: text-classification"]
    if not os.path.isdir(base):  # a name on the hub
        lines.append(f"base_model: {json.dumps(base)}")
    return "\n".join(["---", *lines, "tags:", "- uncertainty", "- selective-classification", "---"])


def _measured(clf: Any) -> str:
    found = {name: str(value) for name, value in clf.measured.items()}
    if clf.threshold is not None:
        found["accepted answers"] = (
            f"{clf.threshold.describe()} Set on {clf.threshold.n_rows} rows."
        )
    if clf.error_probability is not None:
        found["probability of an error"] = (
            f"{clf.error_probability.method} calibration on {clf.error_probability.n_samples_fit_} "
            f"rows with {clf.error_probability.n_errors_} errors"
        )
    return _list(found) if found else "Nothing was recorded here. Measure on rows of your own."


def _limits(clf: Any, base: str) -> Iterator[str]:
    yield (
        "Uncertainty, thresholds and probabilities of an error hold for texts from the same source "
        "as those that they were fitted on. After a change of the source, measure again."
    )
    yield "A confident answer can be wrong: the uncertainty only makes errors easier to find."
    if clf.threshold is None:
        yield "There is no threshold, so nothing is guaranteed of the answers with low uncertainty."
    if FIT_ROWS in clf.head.provenance:
        yield "Digests of the rows that it was fitted on are saved, so that tests leave them out."
    if os.path.isdir(base):
        yield "The base model lies in a folder; name it elsewhere with `base_model=`."


def _list(items: dict[str, str]) -> str:
    return "\n".join(f"- **{one_line(name)}**: {one_line(value)}" for name, value in items.items())
