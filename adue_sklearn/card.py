"""What a score is, in a form that documentation, comparison and tests can read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: What a score learns from: nothing but the head; the rows that the model was trained on, whose
#: features it describes; rows the model has not seen, whose errors it learns; or what another
#: classifier says of the rows.
Needs = Literal["head", "second view", "training rows", "held-out errors"]


@dataclass(frozen=True)
class Card:
    """A score's name, source, formula, needs and cost.

    Parameters
    ----------
    name : str
        As the field calls it, such as ``"softmax response"``.
    paper : str
        Authors, title, venue and year.
    formula : str
        The score in plain text; features ``h``, logits ``z``, probabilities ``p``, predicted
        class ``k``. Higher is more likely wrong.
    needs : {"head", "second view", "training rows", "held-out errors"}
        What ``fit`` learns from.
    cost : str
        What ``fit`` and one scored row cost, in n (fit rows), d (features), C (classes).

    Examples
    --------
    >>> from adue_sklearn import SoftmaxResponseScorer
    >>> SoftmaxResponseScorer.card.formula
    '1 - max p'
    """

    name: str
    paper: str
    formula: str
    needs: Needs
    cost: str

    @property
    def learns_nothing(self) -> bool:
        """Whether ``fit`` with a given head learns nothing, so that the rows stay new to it."""
        return self.needs in ("head", "second view")
