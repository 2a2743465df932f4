"""One page, self-contained, readable by machines that read to people, and all text as text."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from contextlib import nullcontext
from datetime import date
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator

from adue_sklearn import AdUEEstimator, EntropyScorer, MahalanobisScorer, MarginScorer
from adue_sklearn._utils.messages import printable
from adue_sklearn.adue import search
from adue_sklearn.features import FeatureStore
from adue_sklearn.report import _plots, make_report
from adue_sklearn.report._findings import find
from adue_sklearn.selective import clopper_pearson, selective_threshold
from tests import marks
from tests.problems import Problem

QUICK = [EntropyScorer()]
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """The elements of a page, what they say, and whether they are closed in order."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).replace("\xa0", " ").split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def ids(self):
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]


def make_store(path, problem, part=slice(None), *, labels=None, **options):
    return FeatureStore.create(
        path, features=problem.X[part], labels=problem.y[part] if labels is None else labels,
        init_W=problem.W, init_b=problem.b, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def problem():
    return Problem(n=1200, noise=0.35, gap=3.0)


@pytest.fixture(scope="module")
def store(problem, tmp_path_factory):
    return make_store(
        tmp_path_factory.mktemp("report") / "store", problem, classes=["no", "maybe", "yes"],
        provenance={"model": "tuned", "versions": {"torch": "2"}, "max_length": 64,
                    "revision": None},
    )  # fmt: skip


@pytest.fixture(scope="module")
def texts():
    return [f"text number {number}" for number in range(1200)]


@pytest.fixture(scope="module")
def page(store, texts):
    return make_report(
        store, texts=texts, target_risk=0.08, scorers=QUICK, made_on=date(2026, 1, 2)
    )


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the plots out of pages whose words are asked: drawing is what takes long."""
    monkeypatch.setattr(_plots, "_svg", lambda *_: "")


@pytest.fixture(scope="module")
def found(store, texts):
    return find(store, None, texts, target_risk=0.08, confidence=0.95, scorers=QUICK, n_shown=10)


# --- what it says -------------------------------------------------------------------------------


def test_the_recommendation_comes_first_and_is_the_threshold_of_fresh_rows(page, found):
    threshold = selective_threshold(found.errors, found.uncertainty, 0.08)
    assert found.threshold == threshold
    assert 0.3 < threshold.coverage < 1
    read = Page(page)
    body = read.text.split("Which answers of the text classifier to accept", 1)[1].strip()
    share = round(100 * threshold.coverage)
    assert body.startswith(
        f"Accept {share} % of the answers and send the other {100 - share} % to a person: of those "
        "accepted, at most 8 % are wrong, with 95 % confidence."
    )
    assert f"The model was wrong on {found.errors.sum()} of these" in read.text


def test_rows_that_choose_and_rows_that_set_the_threshold_are_different(found, problem):
    assert found.comparison.n_rows == found.n_choosing == 600
    assert found.n_rows == 600
    assert found.comparison.n_errors + found.n_errors == problem.errors.sum()


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (0.9, "Accept every answer of the model: at most 20."),
        (0.0001, "Do not let the model answer alone yet: no threshold guarantees"),
    ],
)
def test_the_recommendation_is_honest_at_the_ends(store, target, sentence, undrawn):
    read = Page(make_report(store, target_risk=target, scorers=QUICK))
    assert sentence in read.text
    nothing = "At least 29956 labelled rows" in read.text
    assert nothing == (target == 0.0001)


@pytest.fixture(scope="module")
def hard(tmp_path_factory):
    """Hold a store on which a fitted AdUE beats softmax response."""
    problem = Problem(n=3000, noise=1.0)
    rest = slice(1500, None)
    winner = AdUEEstimator().fit(problem.X[rest], problem.y[rest], problem.W, problem.b)
    store = make_store(tmp_path_factory.mktemp("hard") / "store", problem, slice(0, 1500))
    return store, FrozenEstimator(winner)


def test_a_score_that_wins_is_chosen_and_one_that_does_not_is_not(hard, page, undrawn):
    for scorer in (AdUEEstimator(), hard[1]):
        read = Page(make_report(hard[0], target_risk=0.4, scorers=[scorer]))
        assert (
            "Decisions use the score “AdUE”. Compared with the model's own confidence, it found "
            in read.text
        )
        assert "AdUE chosen" in read.text
    assert "no other score is expected to find errors better" in Page(page).text
    assert "softmax response chosen" in Page(page).text


def test_table_verdict_and_what_could_not_be_concluded(page, found):
    text = Page(page).text
    for line in found.comparison.verdict.splitlines():
        assert line in text
    for name in ("softmax response", "entropy", "ROC-AUC [95 %]", "p (Holm)", "FPR95"):
        assert name in text
    last = text.split("What could not be concluded")[1]
    assert "without --train-store" in last
    assert "Whether any single answer is right." in last


def test_errors_are_shown_with_their_texts_the_most_confident_first(page, found, store, texts):
    confident = found.most_confident
    assert [a.uncertainty for a in confident] == sorted(a.uncertainty for a in confident)
    wrong = np.sort(found.uncertainty[found.errors])
    np.testing.assert_array_equal([a.uncertainty for a in confident], wrong[:10])
    np.testing.assert_array_equal([a.uncertainty for a in found.most_uncertain], wrong[::-1][:10])
    text = Page(page).text
    for answer in confident + found.most_uncertain:
        assert answer.text == texts[answer.row]
        assert answer.label == store.classes[store.labels[answer.row]]
        assert answer.predicted == store.classes[np.asarray(store.logits)[answer.row].argmax()]
        assert answer.label != answer.predicted
        assert answer.accepted == (answer.uncertainty <= found.threshold.threshold)
        assert answer.text in text
    assert text.index(confident[0].text) < text.index(found.most_uncertain[0].text)


def test_without_texts_rows_are_named_by_their_number_in_the_input(problem, tmp_path, undrawn):
    numbers = np.arange(1200) * 7 + 3
    store = make_store(tmp_path / "store", problem, ids=numbers)
    found = find(store, None, None, target_risk=0.1, confidence=0.95, scorers=QUICK, n_shown=3)
    text = Page(make_report(store, target_risk=0.1, scorers=QUICK, n_shown=3)).text
    for answer in found.most_confident:
        assert answer.row % 7 == 3
        assert f"row {answer.row}" in text


@marks.odd_rows
def test_nearly_every_answer_is_not_called_every_answer(tmp_path):
    X, y = np.tile([3.0, 0.0], (1200, 1)), np.zeros(1200, dtype=int)
    y[::20] = 1
    X[:2], y[:2] = [0.1, 0.0], 1  # the only ones that are doubtful, all wrong
    store = FeatureStore.create(tmp_path / "store", features=X, labels=y, init_W=np.eye(2))
    quick = {"confidence": 0.95, "scorers": QUICK, "n_shown": 0}
    found = find(store, None, None, target_risk=0.5, **quick)
    doubtful = int((found.uncertainty > found.uncertainty.min()).sum())
    assert 1 <= doubtful <= 2
    certain = clopper_pearson(found.n_errors - doubtful, found.n_rows - doubtful, 0.95)
    target = (certain + clopper_pearson(found.n_errors, found.n_rows, 0.95)) / 2
    text = Page(make_report(store, target_risk=target, scorers=QUICK)).text
    assert "Accept every answer" not in text
    share = np.floor(1e4 * (1 - doubtful / 600)) / 100
    rest = round(100 - share, 2)
    assert f"Accept {share:g} % of the answers and send the other {rest:g} % to a person" in text
    assert f"{share:g} % accepted, at most" in text  # in the plot


def test_provenance_and_date_are_on_the_page(page, store):
    text = Page(page).text
    assert str(store.path) in text
    assert "model tuned" in text
    assert "torch 2" in text
    assert "max length 64" in text
    assert "revision" not in text
    assert "2026-01-02, adue-sklearn" in text


def test_the_same_input_gives_the_same_page(page, store, texts):
    again = make_report(
        store, texts=texts, target_risk=0.08, scorers=QUICK, made_on=date(2026, 1, 2)
    )
    assert again == page


def test_coverages_are_observed_risks_with_exact_intervals(found):
    from scipy.stats import binomtest

    order = np.argsort(found.uncertainty, kind="stable")
    for row in found.coverages:
        k = round(row.coverage * 600)
        n_wrong = int(found.errors[order][:k].sum())
        assert row.risk == pytest.approx(n_wrong / k)
        exact = binomtest(n_wrong, k).proportion_ci(0.95, "exact")
        assert (row.low, row.high) == pytest.approx((exact.low, exact.high))


def test_classes_add_up(found):
    assert sum(row.n_rows for row in found.classes) == 600
    assert sum(row.n_accepted for row in found.classes) == found.threshold.n_accepted
    wrong = sum(row.n_rows * row.error_rate for row in found.classes)
    assert wrong == pytest.approx(found.n_errors)


# --- the page as a page -------------------------------------------------------------------------


def test_the_page_loads_nothing_and_runs_nothing(page):
    read = Page(page)
    tags = Counter(tag for tag, _ in read.elements)
    assert not tags.keys() & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert "http" not in page.replace("http-equiv", "")
    assert "@import" not in page
    assert not re.findall(r"url\((?!#)", page)
    for _, attributes in read.elements:
        assert not any(key.startswith("on") or key == "src" for key in attributes)
        assert attributes.get("href", "#").startswith("#")
    policy = [a["content"] for a in read.all("meta") if a.get("http-equiv")]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_plots_have_names_texts_and_ids_of_their_own(page):
    read = Page(page)
    assert len(read.all("svg")) == 6
    assert len(read.ids) == len(set(read.ids))
    for svg in read.all("svg"):
        assert svg["role"] == "img"
        assert set(svg["aria-labelledby"].split()) <= set(read.ids)
        assert "viewbox" in svg
        assert "width" not in svg
    used = re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', page)
    assert {first or second for first, second in used} <= set(read.ids)


def test_plots_take_the_colours_of_the_page(page):
    drawings = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "var(--first)" in drawings
    assert "currentColor" in drawings
    assert not set(re.findall("#[0-9a-f]{6}\\b", drawings)) - {"#ffffff", "#000000"}
    assert "prefers-color-scheme: dark" in page


def contrast(first, second):
    """Return the ratio that WCAG 2 defines."""

    def luminance(colour):
        parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_contrast_by_day_and_by_night(page):
    for block in re.findall(r":root \{(.*?)\}", page, flags=re.DOTALL):
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))
        for ground in ("ground", "card"):
            for name in ("ink", "soft"):
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
            for name in ("first", "second", "faint"):
                assert contrast(colours[name], colours[ground]) >= 3.0, (name, ground)
        for name in ("good", "bad"):
            assert contrast(colours[name], colours[f"{name}-ground"]) >= 4.5


def test_headings_tables_and_language_can_be_read_aloud(page):
    read = Page(page)
    assert read.all("html")[0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    tables = page.count("<table")
    assert tables == page.count("<caption>") >= 5
    assert all(attributes.get("scope") in ("col", "row") for attributes in read.all("th"))
    boxes = [a for a in read.all("div") if a.get("class") == "scroll"]
    assert len(boxes) == tables  # wide tables scroll by themselves
    assert all(box["aria-label"] and box["tabindex"] == "0" for box in boxes)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in read.all(
        "meta"
    )


# --- text stays text ----------------------------------------------------------------------------

NASTY = [
    "<script>alert(1)</script>",
    "</table></main><h1>gotcha</h1>",
    "\"'><img src=x onerror=alert(1)>",
    "]]></style></svg></text><script>x</script>",
    "{{ 7 * 7 }} {% raw %} &amp; &lt;b&gt;",
    "$\\frac{1}{$ and $a_b$ and 5$",
    "日本語 \U0001f600 \u202e עברית",
]  # fmt: skip


def test_markup_in_texts_names_paths_and_facts_is_shown_as_text(problem, page, tmp_path):
    evil = make_store(
        tmp_path / "a<b> & \"c\" $d$" , problem, classes=NASTY[:3],
        provenance={name: name for name in NASTY},
    )  # fmt: skip
    texts = [f"{NASTY[number % len(NASTY)]} {number}" for number in range(1200)]
    named = [(NASTY[3], EntropyScorer())]
    made = make_report(evil, texts=texts, target_risk=0.08, scorers=named, made_on=date(2026, 1, 2))
    read, plain = Page(made), Page(page)
    count = Counter(tag for tag, _ in read.elements)
    expected = Counter(tag for tag, _ in plain.elements)
    assert not count.keys() - expected.keys()
    for tag in ("h1", "table", "svg", "main", "style", "figure", "tr", "h2"):
        assert count[tag] == expected[tag], tag
    for attributes in (attributes for _, attributes in read.elements):
        assert not any(key.startswith("on") for key in attributes)
    text = read.text
    for piece in (*NASTY, str(evil.path)):
        assert " ".join(printable(piece).split()) in text


@pytest.mark.parametrize(
    "name", [NASTY[3], NASTY[5], f"_{NASTY[6]}", "a\nb\x00\x08\x1b\x7f", "\ud800 half"]
)
def test_the_winners_name_may_be_anything_in_the_plots(hard, name):
    store, winner = hard
    made = make_report(store, target_risk=0.4, scorers=[(name, winner)])
    made.encode("utf-8")
    read = Page(made)
    assert "chosen" in read.text
    assert "softmax response chosen" not in read.text
    assert len(read.all("svg")) == 6
    assert not read.all("script")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", made)


def test_control_characters_and_half_surrogates_do_not_break_the_page(problem, tmp_path):
    odd = make_store(
        tmp_path / "store", problem, classes=["\x00", "tab\there", "line\nbreak"],
        provenance={"model": "\x1b[31m\ud83d"},
    )  # fmt: skip
    texts = ["\x00 \ud800 \x0b \r\n ok"] * 1200
    made = make_report(odd, texts=texts, target_risk=0.1, scorers=QUICK)
    assert b"\x00" not in made.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", made)
    Page(made)


def test_a_long_text_is_cut(problem, tmp_path, undrawn):
    store = make_store(tmp_path / "store", problem)
    made = make_report(store, texts=["word " * 2000] * 1200, target_risk=0.1, scorers=QUICK)
    assert len(made) < 400_000
    assert "word …" in Page(made).text


# --- odd rows -----------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [0.0, 0.02, 1.0])
def test_no_errors_few_errors_and_only_errors_have_a_page(problem, tmp_path, wrong):
    answers = (problem.X @ problem.W.T + problem.b).argmax(axis=1)
    flipped = np.random.default_rng(0).random(1200) < wrong
    labels = np.where(flipped, (answers + 1) % 3, answers)
    store = make_store(tmp_path / "store", problem, labels=labels)
    warned = pytest.warns(UserWarning, match="order") if wrong == 1 else nullcontext()
    with warned:
        text = Page(
            make_report(store, target_risk=0.05, scorers=[AdUEEstimator(tol=0.01), MarginScorer()])
        ).text
    doubts = text.split("What could not be concluded")[1]
    assert "Where exactly the curves lie" in doubts
    assert "Which score is best" in doubts
    if wrong == 0:
        assert "Accept every answer of the model" in text
        assert "None: every answer to these rows is right." in text
        assert "How good AdUE is: it failed" in doubts
        assert "How likely each answer is to be wrong" in doubts
    if wrong == 1:
        assert "Do not let the model answer alone yet" in text


def test_a_scorer_that_fails_is_named_and_the_rest_goes_on(store, undrawn):
    broken = MahalanobisScorer(shrinkage=0.0)
    broken.device = "nowhere"
    text = Page(make_report(store, target_risk=0.08, scorers=[broken, EntropyScorer()])).text
    assert "Mahalanobis failed:" in text
    assert "How good Mahalanobis is: it failed" in text
    assert "entropy" in text


def test_training_rows_serve_the_scores_that_describe_them(problem, store, tmp_path, undrawn):
    other = Problem(n=300, seed=1)
    other.W, other.b = problem.W, problem.b
    train = make_store(tmp_path / "train", other)
    text = Page(make_report(store, train=train, scorers=[MahalanobisScorer()])).text
    assert "training rows" in text
    assert "without --train-store" not in text
    same = make_store(tmp_path / "same", problem, slice(0, 100))
    text = Page(make_report(store, train=same, scorers=[MahalanobisScorer()])).text
    assert "How good the model is on 100 of 1200 rows" in text
    recommendation = text.split("What was done")[0]
    assert "100 of the 1200 rows are also training rows and were left out" in recommendation
    assert "550 texts with known answers were used to choose" in text
    assert "550 other texts" in text
    with pytest.raises(ValueError, match=r"all 1200 rows of .* are also in .*"):
        make_report(store, train=store)


def test_many_classes_and_two(tmp_path, undrawn):
    many = make_store(tmp_path / "many", Problem(n=900, n_classes=40, d=50, noise=0.2))
    text = Page(make_report(many, target_risk=0.5, scorers=QUICK)).text
    assert "Observed results by the model's answer" not in text
    two = make_store(tmp_path / "two", Problem(n=400, n_classes=2, noise=0.5))
    assert "Observed results by the model's answer" in Page(make_report(two, scorers=QUICK)).text


def test_a_head_of_several_layers_has_a_report(tmp_path):
    rng = np.random.default_rng(0)
    X, W = rng.normal(size=(150, 6)), [rng.normal(size=(8, 6)), rng.normal(size=(3, 8))]
    logits = np.tanh(X @ W[0].T) @ W[1].T
    labels = (logits + rng.normal(size=logits.shape)).argmax(axis=1)
    store = FeatureStore.create(
        tmp_path / "deep", features=X, labels=labels, init_W=W, init_b=[None, None],
        activation="tanh",
    )  # fmt: skip
    scorers = [AdUEEstimator(activation="tanh", lam=10, beta=1.0)]  # short descents
    assert Page(make_report(store, target_risk=0.3, scorers=scorers)).all("svg")


# --- bad input ----------------------------------------------------------------------------------


def test_stores_and_texts_that_will_not_do_are_named(problem, store, tmp_path):
    FeatureStore.create(tmp_path / "bare", features=problem.X, init_W=problem.W)
    with pytest.raises(ValueError, match="has no labels"):
        make_report(FeatureStore.open(tmp_path / "bare"))
    with pytest.raises(ValueError, match="holds 19 rows; a report needs at least 20"):
        make_report(make_store(tmp_path / "few", problem, slice(0, 19)))
    with pytest.raises(ValueError, match="texts: there are 3, but"):
        make_report(store, texts=["a", "b", "c"])
    for options, message in (
        ({"target_risk": 0}, "target_risk is 0"),
        ({"confidence": 1}, "confidence is 1"),
        ({"scorers": []}, "scorers is empty"),
        ({"scorers": [3]}, "scorers holds 3"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            make_report(store, **options)


# --- the command --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Hold a small store and its texts, for the whole list of scores."""
    folder = tmp_path_factory.mktemp("small")
    problem = Problem(n=120, d=4, n_classes=2, noise=0.8)
    make_store(folder / "store", problem)
    lines = [json.dumps({"text": f"<i>{number}</i>"}) for number in range(120)]
    (folder / "texts.jsonl").write_text("\n".join(lines))
    return folder


def test_the_command_writes_the_page_and_replaces_an_older_one_if_told_to(
    adue, small, tmp_path, monkeypatch
):
    monkeypatch.setattr(search, "DEFAULT_GRID", {"beta": [0.1]})
    out = tmp_path / "new" / "report.html"
    out.parent.mkdir()
    out.write_text("old")
    status, said, err = adue(
        "report", small / "store", "--texts", small / "texts.jsonl", "--out", out,
        "--target-risk", 0.3, "--confidence", 0.9, "--force",
    )  # fmt: skip
    assert status == 0, err
    assert said == f"Wrote the report to {out}."
    text = Page(out.read_text(encoding="utf-8")).text
    assert "at most 30 %" in text
    assert "with 90 % confidence" in text
    for name in ("tuned AdUE", "Mahalanobis", "stack", "energy"):
        assert name in text
    assert re.search(r"<i>\d+</i>", text)
    assert [file.name for file in out.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "."], "is a folder"),
        (["--out", "new.html", "--texts", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--out", "new.html", "--train-store", "nowhere"], "nowhere"),
        (["--out", "new.html", "--target-risk", 1], "target_risk is 1.0"),
    ],
)
def test_bad_options_are_named_and_leave_nothing(
    adue, small, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    status, out, err = adue("report", small / "store", *options)
    assert (status, out) == (1, "")
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_training_rows_of_another_model_are_refused(adue, small, tmp_path):
    make_store(tmp_path / "other", Problem(n=50, d=4, n_classes=2, seed=3))
    status, _, err = adue(
        "report", small / "store", "--train-store", tmp_path / "other", "--out", tmp_path / "r.html"
    )
    assert status == 1
    assert "another model" in err


def test_without_matplotlib_the_error_names_the_extra(small, monkeypatch):
    for name in {"matplotlib", *(name for name in sys.modules if name.startswith("matplotlib."))}:
        monkeypatch.setitem(sys.modules, name, None)  # what is not installed
    store = FeatureStore.open(small / "store")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'adue-sklearn\[plot\]'"):
        make_report(store, scorers=[EntropyScorer()])
