"""Scores of second opinions: formulas, what is taught and kept, missing views, what is refused."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, strategies as st
from joblib import parallel_config
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler

from adue_sklearn import (
    AutoScorer,
    CompanionScorer,
    ErrorProbability,
    LayerProbeScorer,
    SecondOpinionScorer,
    SelectiveClassifier,
    SidekickScorer,
    SoftmaxResponseScorer,
    UncertaintyPipeline,
    Views,
    compare_scorers,
)
from adue_sklearn.exceptions import MissingViewWarning
from adue_sklearn.scorers import TfidfClassifier
from tests import marks
from tests.emulated_cuda import emulated_cuda, to_cuda
from tests.witness_cases import Witnessed

CASE = Witnessed()
BINARY = Witnessed(n_classes=2, seed=1)
MANY = Witnessed(n_classes=77, d=80, gap=25.0, skill=5.0)
ROWS = np.arange(400)
FALLBACK = {"fallback": "softmax response"}

NOUNS, GOOD, BAD = ("film", "plot", "cast", "score"), ("good", "fine", "great"), ("bad", "poor")
TEXTS = [f"a {word} {noun} number {k}" for k in range(3) for noun in NOUNS for word in GOOD + BAD]
LABELS = np.array([any(word in text for word in GOOD) for text in TEXTS]).astype(int)


def fitted(scorer, case, X):
    return scorer.fit(X, case.y, case.head)


def taught_sidekick(**params):
    return SidekickScorer(**params).fit_witness(TEXTS, LABELS)


@pytest.mark.parametrize("case", [CASE, BINARY, MANY], ids=["3", "2", "77"])
@pytest.mark.parametrize("as_given", [np.asarray, np.exp], ids=["logarithms", "probabilities"])
def test_a_companions_score_is_minus_log_probability_of_the_heads_answer(case, as_given):
    X = case.views(companion=as_given(case.q))
    scorer = fitted(CompanionScorer(), case, X)
    expected = [-case.q[row, answer] for row, answer in enumerate(case.answers)]
    np.testing.assert_allclose(scorer.predict_uncertainty(X), expected, rtol=1e-9)
    np.testing.assert_array_equal(scorer.predict(X), case.answers)
    np.testing.assert_allclose(scorer.predict_proba(X), np.exp(case.log_p), rtol=1e-9)
    assert not scorer.lacks_view(X).any()


@pytest.mark.parametrize(
    ("kind", "rtol"),
    [
        (np.asfortranarray, 1e-12),
        (lambda q: np.repeat(q, 2, axis=1)[:, ::2], 1e-12),
        (lambda q: q.tolist(), 1e-12),
        (lambda q: pd.DataFrame(q, columns=list("abc")), 1e-12),
        (torch.as_tensor, 1e-12),
        (lambda q: q.astype(np.float16), 2e-3),
        (lambda q: torch.as_tensor(q).to(torch.bfloat16), 1e-2),
        (lambda q: np.exp(q).astype(np.float16), 2e-2),
        (lambda q: q + 1e-9, 1e-6),  # logarithms rounded up, some above zero
    ],
)
def test_a_view_of_any_kind_gives_the_same_score(kind, rtol):
    q = np.vstack([[0.0, -40.0, -40.0], CASE.q[1:]])  # its first row is sure
    expected = np.minimum(-q[ROWS, CASE.answers], -np.log(1e-12))
    for X in (CASE.X, torch.as_tensor(CASE.X), pd.DataFrame(CASE.X, columns=list("abcdef"))):
        views = Views(X, companion=kind(q))
        found = fitted(CompanionScorer(), CASE, views).predict_uncertainty(views)
        assert isinstance(found, torch.Tensor if isinstance(X, torch.Tensor) else np.ndarray)
        # The first row's zero probabilities are as small as the floor, whatever the precision.
        np.testing.assert_allclose(np.asarray(found), expected, rtol=rtol, atol=1e-6)


@given(rows=st.lists(st.integers(0, 399), min_size=1, max_size=30))
def test_a_rows_score_does_not_depend_on_the_others(rows):
    X = CASE.views()
    scorer = fitted(CompanionScorer(), CASE, X)
    found = scorer.predict_uncertainty(X[rows])
    np.testing.assert_allclose(found, scorer.predict_uncertainty(X)[rows], rtol=1e-12)


@pytest.mark.parametrize("case", [CASE, BINARY], ids=["3", "2"])
def test_a_label_probe_is_a_logistic_regression_on_standardised_columns(case):
    hidden = case.X * [1, 10, 1, 1, 1, 0.1] + 3
    features = hidden[:200].copy()
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    reference.fit(features[5:], case.y[5:200])
    features[:5, 2] = np.nan  # rows that lack the view
    train = Views(case.X[:200], hidden=features)
    scorer = CompanionScorer("hidden", C=0.1).fit_witness(train, case.y[:200])
    rest = Views(case.X[200:], hidden=hidden[200:])
    fitted_ = scorer.fit(rest, case.y[200:], case.head)
    expected = reference.predict_log_proba(hidden[200:])[ROWS[:200], case.answers[200:]]
    np.testing.assert_allclose(fitted_.predict_uncertainty(rest), -expected, rtol=1e-7)


def test_layer_probes_learn_three_numbers_of_the_layers():
    rng = np.random.default_rng(0)
    layers = {
        f"layer_{k}": CASE.X @ rng.normal(size=(6, 4)) + rng.normal(size=(400, 4)) / k
        for k in (2, 10, 1)
    }
    X = CASE.views(**layers)
    scorer = LayerProbeScorer(C=0.1).fit_witness(X[:200], CASE.y[:200])
    scorer.fit(X[200:], CASE.y[200:], CASE.head)
    assert scorer.views_ == ["layer_1", "layer_2", "layer_10"]
    rows, answers = ROWS[:200], CASE.answers[200:]
    odds = []
    for name in scorer.views_:
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        q = probe.fit(layers[name][:200], CASE.y[:200]).predict_proba(layers[name][200:])
        odds.append(np.log(1 - q[rows, answers]) - np.log(q[rows, answers]))
    p = np.exp(CASE.log_p[200:].max(axis=1))
    columns = [np.log(1 - p) - np.log(p), np.mean(odds, axis=0), (odds[2] - odds[0]) / 3]
    weigh = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    weigh.fit(np.transpose(columns), CASE.errors[200:])
    expected = weigh.decision_function(np.transpose(columns))
    np.testing.assert_allclose(scorer.predict_uncertainty(X[200:]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The number of unique classes:UserWarning")
@pytest.mark.parametrize("n_classes", [2, 3, 77])
def test_the_text_classifier_is_sklearns_union_and_logistic_regression(n_classes):
    rng = np.random.default_rng(n_classes)
    words = [f"{a}{b}" for a in "bdfgklmnp" for b in ("al", "é")]
    labels = np.r_[np.arange(n_classes), rng.integers(n_classes, size=30)]
    texts = [f"{words[y % 18]} {words[y // 18]} {rng.choice(words)}" for y in labels]
    union = FeatureUnion(
        [
            ("words", TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)),
            (
                "characters",
                TfidfVectorizer(
                    analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, min_df=2
                ),
            ),
        ]
    )
    reference = make_pipeline(union, LogisticRegression(C=3.0, max_iter=1000)).fit(texts, labels)
    classifier = TfidfClassifier().fit(texts, labels)
    new = [*texts[::3], "balix dé", "?!", "", "BAL  bal"]
    expected = reference.predict_proba(new)
    for one in (classifier, pickle.loads(pickle.dumps(classifier))):
        np.testing.assert_allclose(one.predict_proba(new), expected, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(classifier.predict(new), reference.predict(new))
    found = classifier.known_log_proba(new)
    known = ~np.isnan(found).any(axis=1)
    assert known[-4:].tolist() == [True, False, False, True]
    np.testing.assert_array_equal(found[known], classifier.predict_log_proba(new)[known])
    assert not hasattr(clone(classifier), "coef_")


def test_a_script_without_spaces_is_told_by_its_characters():
    texts = ["这部电影很好", "剧情很好看", "这部电影很差", "剧情很差劲"]
    classifier = TfidfClassifier().fit(texts, [1, 1, 0, 0])
    assert classifier.words_ == []
    assert classifier.predict(["音乐很好", "音乐很差"]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("texts", "y", "error", "message"),
    [
        (["ab", "cd"], [0, 1], ValueError, "no words or groups .* min_df=2 of its 2 texts"),
        (["?!", "!?"], [0, 1], ValueError, "no words or groups"),
        (["good film"] * 3, [1, 1, 1], ValueError, "y: .*two classes"),
        (["good film"] * 3, [1, 1], ValueError, "X has 3 rows, y has 2 labels"),
        ("good film", [1], TypeError, "texts is a str; expected a sequence of str"),
        (5, [1], TypeError, "texts is a int"),
        (["good", None], [0, 1], TypeError, "texts holds a NoneType at row 1"),
        ([], [], ValueError, "texts is empty"),
    ],
)
def test_texts_and_labels_that_teach_nothing_are_refused(texts, y, error, message):
    with pytest.raises(error, match=message):
        SidekickScorer(TfidfClassifier(C=1.0)).fit_witness(texts, y)


def test_a_sidekicks_view_is_its_text_classifiers_log_probabilities():
    sidekick = taught_sidekick()
    new = ["a fine score", "a poor plot", "какой фильм", "", "7"]
    found = sidekick.log_proba(new)
    expected = TfidfClassifier().fit(TEXTS, LABELS).predict_proba(new)
    np.testing.assert_allclose(np.exp(found[:2]), expected[:2], rtol=1e-9)
    assert np.isnan(found[2:]).all()
    view = sidekick.views(np.ones((5, 2)), new)
    np.testing.assert_array_equal(view.block("sidekick"), found)
    assert view.text_digests is not None
    # The same from features that know their texts, and from views without.
    for X in (view, Views(np.ones((5, 2))), Views(np.ones((5, 2)), texts=new)):
        np.testing.assert_array_equal(sidekick.views(X, new).block("sidekick"), found)


def test_a_class_without_texts_is_improbable_not_impossible():
    sidekick = SidekickScorer().fit_witness(TEXTS, LABELS * 2, classes=[0, 1, 2])
    q = np.exp(sidekick.log_proba(["a fine score", "a poor plot"]))
    np.testing.assert_allclose(q.sum(axis=1), 1.0)
    np.testing.assert_allclose(q[:, 1], 1 / (len(set(TEXTS)) + 3))
    y = np.array([0, 1, 2] * 20)
    texts = ["a poor plot", "a poor plot", "a fine score"] * 20
    sidekick.fit(sidekick.views(np.eye(3)[y], texts), y, np.eye(3))
    # So the scores of the other classes are not drowned by that one's.
    assert sidekick.predict_uncertainty(Views(np.eye(3), sidekick=np.log(q[[0, 0, 1]]))).max() < 6


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["b", "a", "c"], r"texts: 2 of 3 texts are not those of their rows \(first: row 0\)"),
        (["a", "b", "C"], r"1 of 3 texts .*\(first: row 2\)"),
        (["a", "b"], "texts has 2 texts, but X has 3 rows"),
    ],
)
def test_texts_of_other_rows_are_refused(texts, message):
    with pytest.raises(ValueError, match=message):
        taught_sidekick().views(Views(np.ones((3, 2)), texts=["a", "b", "c"]), texts)
    if len(texts) == 2:
        with pytest.raises(ValueError, match="3 rows; expected one text"):
            taught_sidekick().views(np.ones((3, 2)), texts)


def test_a_text_with_different_labels_is_warned_about():
    with pytest.warns(UserWarning, match=r"1 texts occur with different labels \(such as 'a good"):
        SidekickScorer().fit_witness([*TEXTS, TEXTS[0], TEXTS[1]], [*LABELS, 1 - LABELS[0], 1])


def test_a_sidekick_without_a_text_classifier_says_so():
    with pytest.raises(Exception, match=r"call fit_witness\(texts, y\)"):
        SidekickScorer().log_proba(["a"])


class CountingClassifier(ClassifierMixin, BaseEstimator):
    """It counts its fits, in all copies together."""

    fits = 0

    def fit(self, texts, y):
        type(self).fits += 1
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, texts):
        return np.full((len(texts), len(self.classes_)), 1 / len(self.classes_))


@pytest.mark.filterwarnings("ignore:view .* agree with the labels")
@marks.odd_rows
def test_clones_folds_and_searches_keep_what_was_taught_and_never_teach_again():
    CountingClassifier.fits = 0
    sidekick = SidekickScorer(CountingClassifier())
    assert not hasattr(clone(sidekick), "classifier_")
    sidekick.fit_witness(TEXTS, LABELS)
    X = sidekick.views(BINARY.X, [f"text {k}" for k in ROWS])
    probe = CompanionScorer("hidden").fit_witness(
        Views(CASE.X[:100], hidden=CASE.X[:100]), CASE.y[:100]
    )
    layers = LayerProbeScorer(["hidden"]).fit_witness(
        Views(CASE.X[:100], hidden=CASE.X[:100]), CASE.y[:100]
    )
    stack = SecondOpinionScorer([("hidden", probe), ("layers", layers)], cv=2)
    rows, y = Views(CASE.X, hidden=CASE.X)[100:], CASE.y[100:]
    search = GridSearchCV(stack, {"C": [0.01], "hidden__C": [1.0]}, cv=2)
    with parallel_config("threading", n_jobs=2):
        search.fit(rows, y, init_W=CASE.head)
    for copy in (search, pickle.loads(pickle.dumps(search)), clone(stack).fit(rows, y, CASE.head)):
        inner = getattr(copy, "best_estimator_", copy)
        for scorer, original in zip(inner.estimators_, (probe, layers), strict=True):
            for name in original.taught:
                np.testing.assert_array_equal(getattr(scorer, name), getattr(original, name))
    again = pickle.loads(pickle.dumps(clone(sidekick)))
    np.testing.assert_array_equal(again.log_proba(TEXTS), sidekick.log_proba(TEXTS))
    assert clone(sidekick).classifier_ is sidekick.classifier_
    cross_val_score(sidekick, X, BINARY.y, cv=2, params={"init_W": BINARY.head})
    assert CountingClassifier.fits == 1


@pytest.mark.parametrize(
    "scorer",
    [CompanionScorer(), SidekickScorer(), LayerProbeScorer(), CompanionScorer("other")],
    ids=repr,
)
@pytest.mark.parametrize("X", [CASE.X, Views(CASE.X), CASE.views(third=CASE.q)], ids=repr)
def test_without_the_view_a_score_is_softmax_response_and_says_so_in_fit(scorer, X):
    with pytest.warns(MissingViewWarning, match="no second opinion and .* softmax response"):
        scorer = fitted(clone(scorer), CASE, X)
    response = fitted(SoftmaxResponseScorer(), CASE, CASE.X).predict_uncertainty(CASE.X)
    found = scorer.predict_uncertainty(X)
    np.testing.assert_array_equal(np.argsort(found), np.argsort(response))
    assert not scorer.has_view_
    assert not scorer.lacks_view(X).any()
    # Views that come later were not asked for.
    np.testing.assert_array_equal(scorer.predict_uncertainty(CASE.views()), found)


def holders():
    companion = CompanionScorer(**FALLBACK)
    return [
        companion,
        SecondOpinionScorer([("companion", companion)], cv=2),
        ErrorProbability(companion, cv=2),
        SelectiveClassifier(companion, target_risk=0.6),
        SelectiveClassifier(
            FrozenEstimator(clone(companion).fit(CASE.views(), CASE.y, CASE.head)), target_risk=0.6
        ),
    ]


@pytest.mark.parametrize("holder", holders(), ids=lambda holder: type(holder).__name__)
def test_rows_without_the_view_are_marked_by_whatever_holds_the_score(holder):
    frozen = isinstance(getattr(holder, "estimator", None), FrozenEstimator)
    X = CASE.views()
    holder = clone(holder)
    holder = holder.fit(X, CASE.y) if frozen else fitted(holder, CASE, X)
    q = np.where(ROWS[:, None] % 3 == 0, np.nan, CASE.q)
    q[4, 1] = np.nan  # a part of the row is no view either
    some = CASE.views(companion=q)
    lacking = np.isnan(q).any(axis=1)
    np.testing.assert_array_equal(holder.lacks_view(some), lacking)
    found, whole = holder.predict_uncertainty(some), holder.predict_uncertainty(X)
    np.testing.assert_array_equal(found[~lacking], whole[~lacking])
    assert np.isfinite(found).all()
    for none in (CASE.X, Views(CASE.X), CASE.views(companion=q * np.nan)):
        assert holder.lacks_view(none).all()
        np.testing.assert_array_equal(holder.predict_uncertainty(none)[lacking], found[lacking])


def test_a_missing_row_gets_the_heads_own_probability():
    scorer = fitted(CompanionScorer(**FALLBACK), CASE, CASE.views())
    found = scorer.predict_uncertainty(CASE.X)
    np.testing.assert_allclose(found, -CASE.log_p.max(axis=1), rtol=1e-9)


@pytest.mark.parametrize("X", [CASE.X, Views(CASE.X), Views(CASE.X, companion=CASE.q * np.nan)])
def test_a_view_that_is_gone_is_an_error_that_says_how_to_go_on(X):
    for scorer in (CompanionScorer(), SecondOpinionScorer([("companion", CompanionScorer())])):
        fitted(scorer, CASE, CASE.views())
        with pytest.raises(
            ValueError, match=r"no view 'companion' in 400 of 400 rows .*first: row 0.*fallback="
        ):
            scorer.predict_uncertainty(X)
        np.testing.assert_array_equal(scorer.predict(X), CASE.answers)


def test_layer_probes_mark_rows_that_lack_any_layer():
    layers = {"layer_1": CASE.X, "layer_2": CASE.X[:, :3]}
    X = CASE.views(**layers)
    scorer = LayerProbeScorer(**FALLBACK).fit_witness(X[:200], CASE.y[:200])
    scorer.fit(X[200:], CASE.y[200:], CASE.head)
    layers["layer_2"] = np.where(ROWS[:, None] < 300, np.nan, layers["layer_2"])
    some = CASE.views(**layers)
    np.testing.assert_array_equal(scorer.lacks_view(some), ROWS < 300)
    found, whole = scorer.predict_uncertainty(some), scorer.predict_uncertainty(X)
    np.testing.assert_allclose(found[300:], whole[300:], rtol=1e-12)
    np.testing.assert_allclose(found[:300], scorer.predict_uncertainty(CASE.X)[:300], rtol=1e-12)


TAUGHT = CompanionScorer("hidden").fit_witness(
    Views(CASE.X[:200], hidden=CASE.X[:200]), CASE.y[:200]
)
LAYERS = LayerProbeScorer().fit_witness(Views(CASE.X[:200], layer_1=CASE.X[:200]), CASE.y[:200])
NEW = slice(200, None)


def new_rows(**blocks):
    return Views(CASE.X[NEW], **blocks)


@pytest.mark.parametrize(
    ("scorer", "X", "message"),
    [
        (CompanionScorer(), new_rows(companion=CASE.q[NEW, :2]), "2 columns, but the head has 3"),
        (CompanionScorer(), new_rows(companion=CASE.X[NEW, :3]), "rows are not probabilities"),
        (CompanionScorer(), new_rows(companion=np.exp(CASE.q[NEW]) * 2), "not probabilities"),
        (CompanionScorer(), new_rows(companion=np.zeros((200, 3))), "not probabilities"),
        (CompanionScorer(), new_rows(companion=CASE.q[NEW] * np.inf), "not probabilities"),
        (
            CompanionScorer(),
            new_rows(companion=CASE.q[NEW][:, [1, 0, 2]]),
            "view 'companion': its answers agree .* columns must be in the order of the .* head",
        ),
        (SidekickScorer(), new_rows(sidekick=CASE.q[NEW][:, [2, 0, 1]]), "columns must be in the"),
        (TAUGHT, new_rows(hidden=CASE.X[NEW, :4]), "4 columns, but fit_witness was given 6"),
        (TAUGHT, new_rows(hidden=CASE.X[NEW] * np.inf), "'hidden' holds infinity"),
        (LAYERS, new_rows(layer_1=CASE.X[NEW, :4]), "4 columns, but fit_witness was given 6"),
        (LayerProbeScorer(), new_rows(layer_1=CASE.X[NEW]), "has no label probes; call fit_wit"),
        (
            clone(TAUGHT).set_params(view="more"),
            new_rows(more=CASE.X[NEW]),
            "view is 'more', but fit_witness was given 'hidden'; call it again",
        ),
        (
            clone(LAYERS).set_params(views=["layer_2"]),
            new_rows(layer_1=CASE.X[NEW], layer_2=CASE.X[NEW]),
            r"views is \['layer_2'\], but fit_witness was given \['layer_1'\]",
        ),
    ],
)
def test_views_that_do_not_fit_are_named(scorer, X, message):
    with pytest.raises(ValueError, match=message):
        clone(scorer).fit(X, CASE.y[NEW], CASE.head)


@pytest.mark.parametrize("scorer", [TAUGHT, LAYERS], ids=["companion", "layers"])
def test_a_view_of_another_width_is_named_after_fit_too(scorer):
    name = "hidden" if scorer is TAUGHT else "layer_1"
    scorer = clone(scorer).fit(new_rows(**{name: CASE.X[NEW]}), CASE.y[NEW], CASE.head)
    with pytest.raises(ValueError, match=f"'{name}' has 5 columns, but fit_witness was given 6"):
        scorer.predict_uncertainty(new_rows(**{name: CASE.X[NEW, 1:]}))


@pytest.mark.parametrize(
    "scorer",
    [CompanionScorer(), SecondOpinionScorer([("companion", CompanionScorer())])],
    ids=["alone", "combined"],
)
def test_an_unrelated_companion_is_warned_about(scorer):
    q = CASE.another(np.random.default_rng(1), skill=0.0)
    shifted = q[:, [1, 2, 0]] if (q.argmax(1) == CASE.y).mean() > 1 / 3 else q
    with pytest.warns(UserWarning, match="its answers agree .* belongs to these rows"):
        fitted(scorer, CASE, CASE.views(companion=shifted))


@pytest.mark.parametrize(
    ("scorer", "X", "y", "classes", "message"),
    [
        (CompanionScorer(), CASE.X, CASE.y, None, "expected Views with the view 'companion'"),
        (CompanionScorer(), None, CASE.y, None, "expected Views with the view 'companion'"),
        (CompanionScorer("b"), CASE.views(), CASE.y, None, "expected Views with the view 'b'"),
        (LayerProbeScorer(), CASE.X, CASE.y, None, "expected Views with the view 'layer_1'"),
        (LayerProbeScorer([]), CASE.views(), CASE.y, None, "views is empty"),
        (CompanionScorer(), CASE.views(), CASE.y[1:], None, "X has 400 rows, y has 399"),
        (CompanionScorer(), CASE.views(), CASE.y * 0, None, "y has 1 class"),
        (CompanionScorer(), CASE.views(), CASE.y, [0, 1], "y holds 2, not among classes"),
        (CompanionScorer(), CASE.views(), CASE.y, [0, 1, 2, 2], "classes repeats"),
        (CompanionScorer(), CASE.views(companion=CASE.X * np.inf), CASE.y, None, "infinity"),
        (CompanionScorer(), CASE.views(companion=CASE.X * np.nan), CASE.y, None, "the 0 rows"),
    ],
)
def test_what_teaches_nothing_is_named(scorer, X, y, classes, message):
    with pytest.raises(ValueError, match=message):
        scorer.fit_witness(X, y, classes=classes)


@pytest.mark.parametrize("kind", ["companion", "layers", "sidekick"])
def test_witnesses_taught_with_classes_in_another_order_are_refused(kind):
    names = np.array(["b", "a"])
    X, y = BINARY.views(hidden=BINARY.X, layer_1=BINARY.X), names[BINARY.y]
    scorer = {
        "companion": CompanionScorer("hidden"),
        "layers": LayerProbeScorer(),
        "sidekick": SidekickScorer(),
    }[kind]
    taught = (TEXTS, names[LABELS]) if kind == "sidekick" else (X[:100], y[:100])
    scorer.fit_witness(*taught)
    few = X[100:]
    if kind == "sidekick":
        few = scorer.views(few, ["a good film"] * 300)
    with pytest.raises(ValueError, match="had the classes 'a', 'b', but the head's rows are 'b'"):
        scorer.fit(few, y[100:], BINARY.W, BINARY.b, classes=names)
    scorer.fit_witness(*taught, classes=names)
    if kind != "sidekick":  # whose texts have nothing to do with these rows
        scorer.fit(few, y[100:], BINARY.W, BINARY.b, classes=names)


def test_a_probe_that_lacks_a_class_of_the_head_says_so():
    known = np.flatnonzero(CASE.y < 2)[:150]
    X = CASE.views(hidden=CASE.X)
    scorer = CompanionScorer("hidden").fit_witness(X[known], CASE.y[known])
    rest = np.setdiff1d(ROWS, known)
    with pytest.raises(ValueError, match="found 2 classes, but the head has 3; pass its classes"):
        scorer.fit(X[rest], CASE.y[rest], CASE.head)
    scorer.fit_witness(X[known], CASE.y[known], classes=[0, 1, 2])
    found = scorer.fit(X[rest], CASE.y[rest], CASE.head).predict_uncertainty(X[rest])
    assert found.max() <= -np.log(1e-12)


@pytest.mark.parametrize("kind", ["companion", "layers", "sidekick"])
def test_rows_that_a_witness_was_taught_are_refused_by_digest(kind):
    texts = [f"a {'good' if y else 'bad'} film, {k}" for k, y in enumerate(BINARY.y)]
    X = Views(BINARY.X, texts=texts, hidden=BINARY.X, layer_1=BINARY.X)
    if kind == "sidekick":
        scorer = SidekickScorer().fit_witness(texts[:200], BINARY.y[:200])
        X = scorer.views(X, texts)
    else:
        scorer = CompanionScorer("hidden") if kind == "companion" else LayerProbeScorer()
        scorer.fit_witness(X[:200], BINARY.y[:200])
    np.testing.assert_array_equal(scorer.seen_rows(X), ROWS < 200)
    with pytest.raises(ValueError, match=r"given 50 of 250 rows of X.* Fit on rows that neither"):
        scorer.fit(X[150:], BINARY.y[150:], BINARY.head)
    with pytest.warns(UserWarning, match=r"was given 3 of 203 rows of X.*texts that occur twice"):
        clone(scorer).fit(X[197:], BINARY.y[197:], BINARY.head)
    # A comparison leaves them out, of the fit rows and of the test rows.
    with pytest.warns(UserWarning, match="100 of 300 rows are also in the rows that w was") as seen:
        found = compare_scorers(X[100:], BINARY.y[100:], BINARY.head, scorers={"w": scorer}, cv=2)
    assert len(found.errors) == 200
    assert not found["w"].failure, seen


def test_a_sidekicks_view_tells_scores_made_of_it_which_texts_it_was_taught():
    texts = [f"a {'good' if y else 'bad'} film, {k}" for k, y in enumerate(BINARY.y)]
    maker = SidekickScorer().fit_witness(texts[:200], BINARY.y[:200])
    X = maker.views(BINARY.X, texts)
    copies = [X, X.with_main(2 * BINARY.X), X.with_texts(texts), X.with_blocks(other=BINARY.q)]
    for views in (*copies, pickle.loads(pickle.dumps(X))):
        np.testing.assert_array_equal(SidekickScorer().seen_rows(views[100:]), ROWS[100:] < 200)
    replaced = X.with_blocks(sidekick=BINARY.q)  # which another classifier made
    assert not SidekickScorer().seen_rows(replaced).any()
    for scorer in (SidekickScorer(), SecondOpinionScorer()):  # which makes a sidekick of the view
        with pytest.raises(ValueError, match="was given 50 of 250 rows of X"):
            scorer.fit(X[150:], BINARY.y[150:], BINARY.head)
    with pytest.raises(ValueError, match=r"200 of 200 rows .* second opinions was fitted on"):
        AutoScorer().fit(X[:200], BINARY.y[:200], BINARY.head)
    SidekickScorer().fit(X[200:], BINARY.y[200:], BINARY.head)


def test_witnesses_on_an_emulated_gpu_score_as_on_the_cpu():
    X = CASE.views(companion=CASE.q, layer_1=CASE.X)
    layers = LayerProbeScorer().fit_witness(X[:200], CASE.y[:200])
    some = CASE.views(companion=np.where(ROWS[:, None] == 300, np.nan, CASE.q), layer_1=CASE.X)
    witnesses = [CompanionScorer(**FALLBACK), layers]
    stack = SecondOpinionScorer([("companion", witnesses[0]), ("layers", layers)], cv=2)
    for scorer in (*witnesses, stack):
        here = clone(scorer).fit(X[200:], CASE.y[200:], CASE.head)
        expected = here.predict_uncertainty(some[200:])
        with emulated_cuda():
            there = Views(
                to_cuda(CASE.X),
                companion=to_cuda(some.block("companion").copy()),
                layer_1=to_cuda(CASE.X),
            )
            whole = there[200:].with_blocks(companion=CASE.q[200:])
            copy = clone(scorer).fit(whole, CASE.y[200:], CASE.head)
            found = copy.predict_uncertainty(there[200:]).cpu().numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_pipelines_and_searches_over_views_choose_among_witnesses():
    q = CASE.another(np.random.default_rng(1), skill=0.3)
    X = CASE.views(good=CASE.q, weak=q)
    search = GridSearchCV(CompanionScorer(), {"view": ["weak", "good"]}, cv=2)
    assert search.fit(X, CASE.y, init_W=CASE.head).best_params_ == {"view": "good"}
    pipe = UncertaintyPipeline([("companion", CompanionScorer("good"))])
    pipe.fit(X, CASE.y, companion__init_W=CASE.head)
    np.testing.assert_allclose(pipe.predict_uncertainty(X), -CASE.q[ROWS, CASE.answers])


def test_a_companion_of_probabilities_needs_no_training_rows_with_its_view():
    X = CASE.views(companion=CASE.q, layer_1=CASE.X)
    found = compare_scorers(
        X[200:],
        CASE.y[200:],
        CASE.head,
        scorers=[CompanionScorer(), LayerProbeScorer()],
        X_train=Views(CASE.X[:200], layer_1=CASE.X[:200]),
        y_train=CASE.y[:200],
        cv=2,
    )
    assert [result.failure for result in found.results] == ["", "", ""]
    assert "companion" in found.winners
