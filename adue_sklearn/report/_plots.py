"""Plots as inline SVG, with the page's colours and text alternatives."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from adue_sklearn._utils.messages import printable
from adue_sklearn.comparison.result import REFERENCE
from adue_sklearn.metrics import error_roc_auc_score
from adue_sklearn.plotting import (
    ErrorRocDisplay,
    ReliabilityDisplay,
    RiskCoverageDisplay,
    ScoreHistogramDisplay,
    ThresholdDisplay,
)
from adue_sklearn.plotting._display import import_matplotlib
from adue_sklearn.report._findings import Findings, percent, rate

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"

# Colours that stand for those of the page, which differ by day and night.
_INK, _FIRST, _SECOND = "#010203", "#010204", "#010205"
_COLOURS = {
    _INK: "currentColor",
    _FIRST: "var(--first)",
    _SECOND: "var(--second)",
    "#808080": "var(--faint)",
}
_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "font.family": ["DejaVu Sans"],  # matplotlib's own, to measure with
    "font.size": 11,
    "legend.fontsize": 10.5,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 2.0,
}


def risk_coverage(found: Findings) -> str:
    """Draw the error rate among accepted answers, of the chosen score and of the reference."""

    def draw(ax: Any) -> None:
        RiskCoverageDisplay.from_predictions(
            found.errors, found.uncertainty, name=_legend_name(found.chosen), ax=ax
        )
        if found.chosen != REFERENCE:
            RiskCoverageDisplay.from_predictions(
                found.errors,
                found.reference,
                name=REFERENCE,
                confidence=None,  # two overlapping bands would be hard to tell apart
                curve_kwargs={"linestyle": "--"},
                ax=ax,
            )

    shown = ", ".join(f"{rate(r.risk)} at {percent(r.coverage)}" for r in found.coverages)
    return _svg(
        "risk",
        draw,
        "Error rate among accepted answers by share accepted",
        f"Observed error rates by share of answers accepted: {shown}.",
    )


def threshold(found: Findings) -> str:
    """Draw the share that can be accepted for each guaranteed error rate."""
    share = rate(found.threshold.coverage)
    return _svg(
        "threshold",
        lambda ax: ThresholdDisplay.from_predictions(
            found.errors,
            found.uncertainty,
            target_risk=found.target_risk,
            confidence=found.confidence,
            ax=ax,
        ),
        "Share of answers that can be accepted by guaranteed error rate",
        f"The chosen point: {share} accepted for an error rate of at most "
        f"{percent(found.target_risk)}.",
    )


def error_roc(found: Findings) -> str | None:
    """Draw how many errors a threshold catches; None where there are no errors or only errors."""
    if found.n_errors in (0, found.n_rows):
        return None

    area = rate(error_roc_auc_score(found.errors, found.uncertainty))
    return _svg(
        "roc",
        # The area's interval would not fit in the legend; the band shows the uncertainty instead.
        lambda ax: ErrorRocDisplay.from_predictions(
            found.errors,
            found.uncertainty,
            n_resamples=200,
            ax=ax,
            curve_kwargs={"label": _legend_name(found.chosen)},
        ),
        "Share of wrong answers sent to a person by share of right answers sent to a person",
        f"The area under the curve is {area}; 50 % is chance.",
    )


def error_reliability(found: Findings) -> str | None:
    """Draw how often answers were wrong against how often they were predicted to be."""
    if found.error_probability is None:
        return None
    return _reliability("error", found, found.error_probability)


def confidence_reliability(found: Findings) -> str:
    """Draw how often answers were right against the model's own confidence."""
    return _reliability("confidence", found, found.top_probability)


def histogram(found: Findings) -> str:
    """Draw the uncertainties of correct and of wrong answers."""
    return _svg(
        "histogram",
        lambda ax: ScoreHistogramDisplay.from_predictions(
            found.errors, found.uncertainty, name=_legend_name(found.chosen), bins=25, ax=ax
        ),
        "Uncertainties of correct and of wrong answers",
        "Two histograms, as shares of all correct and of all wrong answers.",
    )


def _legend_name(name: str) -> str:
    name = " ".join(printable(name).split())
    return name if len(name) <= 24 else f"{name[:22]} …"


def _reliability(of: str, found: Findings, probability: Any) -> str:
    titles = {
        "error": "Observed error rate by predicted probability of an error",
        "confidence": "Observed share of right answers by the model's own confidence",
    }
    return _svg(
        f"reliability-{of}",
        lambda ax: ReliabilityDisplay.from_predictions(
            found.errors, probability, of=of, ax=ax, curve_kwargs={"label": "these answers"}
        ),
        titles[of],
        lambda shown: "; ".join(
            f"predicted {rate(p)}, observed {rate(o)}"
            for p, o in zip(shown.predicted, shown.observed, strict=True)
        ),
    )


def _svg(
    name: str, draw: Callable[[Any], Any], title: str, description: str | Callable[[Any], str]
) -> str:
    figure_class = import_matplotlib("figure").Figure
    cycler = import_matplotlib("rcsetup").cycler
    style = {**_STYLE, "axes.prop_cycle": cycler(color=[_FIRST, _SECOND]), "svg.hashsalt": name}
    file = io.StringIO()
    with import_matplotlib("style").context(["default", style]), warnings.catch_warnings():
        # A name may hold characters that are missing in the font used to measure text.
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")
        figure = figure_class(figsize=(4.4, 3.7), layout="constrained")
        ax = figure.subplots()
        drawn = draw(ax)
        ax.xaxis.set_major_locator(import_matplotlib("ticker").MaxNLocator(5))
        _above(ax)
        for text in figure.findobj(import_matplotlib("text").Text):
            text.set_parse_math(False)  # a "$" in a name is a dollar
        figure.savefig(file, format="svg", metadata={"Date": None})
    said = description if isinstance(description, str) else description(drawn)
    return _for_page(file.getvalue(), name, title, said)


def _above(ax: Any) -> None:
    """Put the legend above the axes, out of the way of the curves."""
    handles, labels = ax.get_legend_handles_labels()
    if ax.get_legend() is not None:
        handles = ax.get_legend().legend_handles
        labels = [text.get_text() for text in ax.get_legend().get_texts()]
        ax.get_legend().remove()
    ax.figure.legend(handles, labels, loc="outside upper left", frameon=False, borderaxespad=0.2)


def _for_page(svg: str, name: str, title: str, description: str) -> str:
    """Prepare an SVG for the page: unique ids, the page's colours, a title and a description."""
    root = ElementTree.fromstring(svg[svg.index("<svg") :])
    for child in list(root):
        if child.tag.endswith("metadata"):
            root.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]  # HTML knows SVG without namespaces
        attributes = dict(element.attrib)
        element.attrib.clear()
        for key, value in attributes.items():
            element.set(*_attribute(key, value, name))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-description")
    for place, (kind, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(kind)
        element.set("id", f"{name}-{'title' if kind == 'title' else 'description'}")
        element.text = text
        root.insert(place, element)
    return ElementTree.tostring(root, encoding="unicode", method="html")


def _attribute(key: str, value: str, name: str) -> tuple[str, str]:
    if key == "id":
        return key, f"{name}-{value}"
    if key == _LINK:
        return "href", value.replace("#", f"#{name}-")
    value = re.sub(r"url\(#", f"url(#{name}-", value)
    if key in ("style", "fill", "stroke"):
        value = re.sub("#[0-9a-f]{6}", lambda match: _COLOURS.get(match[0], match[0]), value)
        value = value.replace("'DejaVu Sans'", "system-ui, sans-serif")
    return key.rpartition("}")[2], value
