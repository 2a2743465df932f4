"""Write ``docs/scorers.md`` from the cards of the scores.

python docs/make_scorers.py
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import adue_sklearn
from adue_sklearn.card import Needs

PAGE = Path(__file__).with_name("scorers.md")

INTRODUCTION = """# Scores

Written by `docs/make_scorers.py` from each class's `card`; edit the cards, not this page.

Every score is an estimator with the same `fit(X, y, init_W, init_b)`, and higher means more likely
wrong. In formulas, `h` are the features that enter the head's last layer, `z` its logits,
`p = softmax(z)` and `k` the class it predicts, `q` another classifier's probabilities; in costs, n
is the number of fit rows, d that of features, C that of classes. What a score learns from decides
which rows it is fitted on.
"""

SECTIONS = {
    "head": """## The head alone

These scores learn nothing: `fit` accepts any rows and only uses the head and its shape.
""",
    "second view": """## A second opinion

These scores learn nothing: they read what another classifier says of the rows, a view of `X`
([second opinions](second-opinions.md)). Use them beside others, in `SecondOpinionScorer`.
""",
    "training rows": """## Rows that the classifier was trained on

These scores describe where the training rows lie, or the directions that they leave out. Features
of new rows differ from those of memorised rows, so fit these scores on the training rows.
""",
    "held-out errors": """## Errors on rows that the classifier was not trained on

These scores learn from the head's errors. On its training rows a classifier makes few errors, and
untypical ones, so fit these scores on held-out rows.
""",
}


def page() -> str:
    """Return the page as Markdown."""
    parts = [INTRODUCTION]
    for needs in get_args(Needs):
        rows = [row(cls) for cls in scorers() if cls.card.needs == needs]
        head = "| score | class | formula | cost | source |\n|---|---|---|---|---|\n"
        parts.append(f"{SECTIONS[needs]}\n{head}" + "".join(rows))
    return "\n".join(parts)


def scorers() -> list[type]:
    """Return the public classes that have a card, in the order of their names."""
    public = (getattr(adue_sklearn, name) for name in adue_sklearn.__all__)
    return [cls for cls in public if hasattr(cls, "card")]


def row(cls: type) -> str:
    """Return a class's line of the table."""
    card = cls.card
    formula = card.formula.replace("|", r"\|")
    return f"| {card.name} | `{cls.__name__}` | `{formula}` | {card.cost} | {card.paper} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
