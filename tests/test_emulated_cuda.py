"""The CUDA paths on an accelerator that is emulated: same results, no operand left behind."""

import copy
import inspect
import pickle
import warnings
from io import BytesIO

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV

from adue_sklearn import (
    AdUEEstimator,
    AdUESearchCV,
    AutoScorer,
    ErrorProbability,
    HUQScorer,
    KNNScorer,
    LastLayerLaplaceScorer,
    LinearProbeScorer,
    MahalanobisScorer,
    MarginScorer,
    RiskMonitor,
    SelectiveClassifier,
    SoftmaxResponseScorer,
    StackedScorer,
    TemperatureScaling,
    UncertaintyPipeline,
    VectorScaling,
    ViMScorer,
    compare_scorers,
    metrics,
)
from adue_sklearn.features import (
    LoraFeatureExtractor,
    ModelViews,
    compute_features,
    compute_views,
    extract_features,
    load_classifier,
)
from adue_sklearn.features._model.probe import head_eps
from adue_sklearn.model_selection import count_shared_rows, error_stratified_folds
from adue_sklearn.persistence import load_head, save_head
from adue_sklearn.selective import selective_threshold
from adue_sklearn.thresholds import SavedThreshold
from tests import marks
from tests.emulated_cuda import CudaTensor, emulated_cuda, to_cuda
from tests.estimator_cases import ESTIMATORS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*converge"),
    pytest.mark.filterwarnings("ignore:.*errors"),
    marks.no_views,
]
#: Each iteration runs the same operations: two show that they stay on one device.
SHORT = {"max_iter": 2}
METHODS = ("predict", "predict_proba", "predict_uncertainty")


def quick(estimator):
    solves = isinstance(estimator, AdUEEstimator | AdUESearchCV)
    return clone(estimator).set_params(**SHORT) if solves else clone(estimator)


def problem(n_classes=3, n=120, d=6, *, hidden=None):
    """Features in float32, labels that a head sometimes gets wrong, and the head."""
    random = np.random.default_rng(0)
    X = random.normal(size=(n, d)).astype(np.float32)
    W, b = random.normal(size=(n_classes, hidden or d)), np.zeros(n_classes)
    first = random.normal(size=(hidden or d, d))
    logits = np.tanh(X @ first.T) @ W.T if hidden else X @ W.T
    y = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    return (X, y, [first, W], [None, b]) if hidden else (X, y, W, b)


def answers(estimator, X):
    return [getattr(estimator, method)(X) for method in METHODS]


def assert_same(got, expected):
    for ours, theirs in zip(got, expected, strict=True):
        tensor = isinstance(ours, torch.Tensor)
        assert not tensor or ours.is_cuda
        on_host = ours.cpu().numpy() if tensor else ours
        np.testing.assert_allclose(on_host, theirs, rtol=1e-6, atol=1e-12)


#: Settings that compute by other code.
OTHERS = [
    MahalanobisScorer("relative", shrinkage="auto", normalize=True),
    AdUEEstimator(measure="entropy", error_weight="balanced"),
]


@pytest.mark.parametrize("estimator", [*ESTIMATORS, *OTHERS], ids=str)
def test_every_estimator_gives_on_cuda_what_it_gives_on_the_cpu(estimator):
    X, y, W, b = problem()
    expected = answers(quick(estimator).fit(X, y, W, b), X)
    with emulated_cuda() as seen:  # device="auto" is CUDA now
        of_arrays = quick(estimator).fit(X, y, W, b)
        assert any(what == "to device" for what, _ in seen.waits)
        got = answers(of_arrays, X)
        assert all(isinstance(values, np.ndarray) for values in got)
        assert_same(got, expected)
        X, y, W, b = (to_cuda(values) for values in (X, y, W, b))
        got = answers(quick(estimator).fit(X, y, W, b), X)
        assert all(isinstance(values, CudaTensor) for values in got)
        assert_same(got, expected)
    moved = pickle.loads(pickle.dumps(of_arrays))
    assert_same(answers(moved, X.held.numpy()), expected)


# What follows is one estimator a mechanism: the rest share it.


@pytest.mark.parametrize(
    "estimator",
    [SoftmaxResponseScorer(), MahalanobisScorer(), KNNScorer(), AdUEEstimator(**SHORT)],
    ids=str,
)
def test_bfloat16_on_cuda_gives_what_it_gives_on_the_cpu(estimator):
    X, *rest = problem(2)
    X = torch.from_numpy(X).bfloat16()
    expected = answers(clone(estimator).fit(X, *rest), X)
    with emulated_cuda():
        assert_same(answers(clone(estimator).fit(to_cuda(X), *rest), to_cuda(X)), expected)


@pytest.mark.parametrize(
    "estimator", [SoftmaxResponseScorer(), ViMScorer(), AdUEEstimator(**SHORT)], ids=str
)
def test_whole_heads_on_cuda_give_what_they_give_on_the_cpu(estimator):
    estimator.set_params(activation="tanh")
    X, *rest = problem(hidden=4)
    expected = answers(clone(estimator).fit(X, *rest), X)
    with emulated_cuda():
        assert_same(answers(clone(estimator).fit(to_cuda(X), *rest), to_cuda(X)), expected)


def test_adam_on_cuda_draws_there_and_gives_what_it_gives_on_the_cpu():
    adam = AdUEEstimator(solver="adam", epochs=1, random_state=0)
    arguments = problem()
    expected = answers(clone(adam).fit(*arguments), arguments[0])
    with emulated_cuda():
        assert_same(answers(clone(adam).fit(*arguments), arguments[0]), expected)


def test_a_head_is_fitted_and_features_come_in_parts_on_cuda():
    X, y, *_ = problem()
    expected = MahalanobisScorer().fit(X, y)
    with emulated_cuda():
        parts = MahalanobisScorer().partial_fit(to_cuda(X[:70]), y[:70])
        parts.partial_fit(to_cuda(X[70:]), to_cuda(y[70:]))
        headless = MahalanobisScorer().fit(to_cuda(X), to_cuda(y))
        assert_same(answers(headless, to_cuda(X)), answers(expected, X))
        got = parts.predict_uncertainty(to_cuda(X)).cpu().numpy()
    np.testing.assert_allclose(got, expected.predict_uncertainty(X), rtol=1e-6)


@pytest.fixture(scope="module")
def scored():
    """What metrics take: each as an array."""
    X, y, W, b = problem()
    fitted = SoftmaxResponseScorer().fit(X, y, W, b)
    return {
        "errors": fitted.errors(X, y),
        "uncertainty": fitted.predict_uncertainty(X),
        "reference": MarginScorer().fit(X, y, W, b).predict_uncertainty(X)[::-1].copy(),
        "predicted": fitted.predict(X),
        "y": y,
        "y_true": y,
        "probabilities": fitted.predict_proba(X),
        "sample_weight": np.linspace(1, 2, len(X)),
    }


@pytest.mark.parametrize(
    "metric", [name for name in metrics.__all__ if inspect.isfunction(getattr(metrics, name))]
)
def test_every_metric_takes_tensors_on_cuda(metric, scored):
    function = getattr(metrics, metric)
    options = {
        "metric": metrics.error_roc_auc_score,
        "random_state": 0,
        "n_resamples": 20,
    }
    parameters = inspect.signature(function).parameters
    options = {name: value for name, value in options.items() if name in parameters}
    given = {name: value for name, value in scored.items() if name in parameters}
    expected = function(**given, **options)
    with emulated_cuda():
        on_cuda = {name: to_cuda(value) for name, value in given.items()}
        np.testing.assert_equal(function(**on_cuda, **options), expected)


def calibrated(X, y, *_):
    logits, labels = 3 * X[:, :3], (X[:, :3] + X[:, 3:]).argmax(1)
    fitted = [scaling.fit(logits, labels) for scaling in (TemperatureScaling(), VectorScaling())]
    return [
        getattr(scaling, f"predict{what}")(logits) for scaling in fitted for what in ("", "_proba")
    ]


def selected(X, y, W, b):
    groups = X[:, 0] > 0
    frozen = FrozenEstimator(SoftmaxResponseScorer().fit(X, y, W, b))
    by_group = SelectiveClassifier(frozen, target_risk=0.5).fit(X, y, groups=groups)
    by_class = SelectiveClassifier(target_risk=0.9, per_class=True).fit(X, y, W, b)
    return [by_group.accepts(X, groups=groups), by_class.predict_or_defer(X, -1)]


def thresholds(X, y, W, b):
    scorer = SoftmaxResponseScorer().fit(X, y, W, b)
    found = SavedThreshold.of(scorer, X, y, target_risk=0.5)
    plain = selective_threshold(X[:, 1] > 0, X[:, 0], target_risk=0.6)
    return [found.accepts(scorer.predict_uncertainty(X)), plain.threshold]


def monitored(X, *_):
    monitor = RiskMonitor(reference=X[:, 0]).update(X[:20, 1] > 0).update_uncertainty(X[:20, 0])
    return [monitor.risk_evidence, monitor.shift_evidence]


def rows_chosen(X, y, W, b):
    return [count_shared_rows(X, X[:5]), *error_stratified_folds(X, y, W, b)[0]]


def compared(X, y, W, b):
    scorers = [MahalanobisScorer(), HUQScorer(cv=2), MarginScorer()]
    half = X[:, 0] > 0
    options = {"X_train": X[::2] + 0.25, "y_train": y[::2], "cv": [(half, ~half), (~half, half)]}
    found = compare_scorers(X, y, W, b, scorers=scorers, n_resamples=20, **options)
    return [result.metrics["aurc"].value for result in found.results]


def searched(X, y, W, b):
    y = y.cpu() if isinstance(y, torch.Tensor) else y  # scikit-learn counts the labels itself
    search = GridSearchCV(KNNScorer(), {"k": [1, 5]}, cv=2).fit(X, y, init_W=W, init_b=b)
    return [search.cv_results_["mean_test_score"], search.score_samples(X)]


def probable(X, y, W, b):
    half = X[:, 0] > 0
    folds = [(half, ~half), (~half, half)]
    return [
        ErrorProbability(LinearProbeScorer(C=0.1), cv=folds).fit(X, y, W, b).predict_uncertainty(X)
    ]


def piped(X, y, *_):
    pipe = UncertaintyPipeline([("score", MahalanobisScorer())]).fit(X, y)
    return [pipe.predict_uncertainty(X), metrics.aurc_scorer(pipe, X, y)]


@pytest.mark.parametrize(
    "use",
    [calibrated, selected, thresholds, monitored, rows_chosen, compared, probable, searched, piped],
    ids=lambda use: use.__name__,
)
def test_what_is_built_on_scores_gives_on_cuda_what_it_gives_on_the_cpu(use):
    arguments = problem()
    expected = use(*arguments)
    with emulated_cuda():
        assert_same(use(*map(to_cuda, arguments)), expected)


@pytest.fixture(scope="module")
def holders():
    """Estimators that hold fitted ones, all told to compute on CUDA and fitted there."""
    arguments = problem()
    there = {"device": "cuda"}
    margin = ("margin", MarginScorer(**there))
    probability = ErrorProbability(LinearProbeScorer(C=0.1, **there))
    with emulated_cuda():
        frozen = FrozenEstimator(MahalanobisScorer(**there).fit(*arguments))
        made = {
            "search": AdUESearchCV({"beta": [0.1, 1.0]}, cv=2, **SHORT, **there),
            "HUQ": HUQScorer(MahalanobisScorer(**there), cv=2, **there),
            "HUQ, frozen": HUQScorer(frozen, cv=2, **there),
            "stack": StackedScorer([margin, ("frozen", frozen)], cv=2, **there),
            "automatic": AutoScorer([margin], frozen=[("md", frozen)], cv=2, **there),
            "selective": SelectiveClassifier(probability, target_risk=0.5),
        }
        return {name: pickle.dumps(one.fit(*arguments)) for name, one in made.items()}


HOLDERS = ["search", "HUQ", "HUQ, frozen", "stack", "automatic", "selective"]


@pytest.mark.parametrize("name", HOLDERS)
def test_what_was_fitted_on_cuda_says_so_and_predicts_on_a_machine_without(name, holders):
    X, *_ = problem()
    with pytest.warns(UserWarning, match="fitted with device='cuda'.*here the CPU") as said:
        moved = joblib.load(BytesIO(holders[name]))
    assert {warning.filename for warning in said} == {__file__}
    with emulated_cuda():
        expected = pickle.loads(holders[name]).predict_uncertainty(X)
    assert_same([moved.predict_uncertainty(X)], [expected])


@pytest.mark.parametrize("name", HOLDERS)
def test_a_device_set_after_fit_reaches_the_scores_inside(name, holders):
    X, *_ = problem()
    parameter = "estimator__estimator__device" if name == "selective" else "device"
    with emulated_cuda() as seen:
        moved = pickle.loads(holders[name])
        moved.predict_uncertainty(X)
        assert seen.ops.total()
        moved.set_params(**{parameter: "cpu"})
        seen.ops.clear()
        moved.predict_uncertainty(X)
        assert not seen.ops.total()


HOST = {"device": "cpu"}


@pytest.mark.parametrize(
    "estimator",
    [
        HUQScorer(cv=2, **HOST),
        StackedScorer(cv=2, **HOST),
        AdUESearchCV({"beta": [0.1, 1.0]}, cv=2, **SHORT, **HOST),
        AutoScorer([("margin", MarginScorer(**HOST))], cv=2, **HOST),
        ErrorProbability(MahalanobisScorer(**HOST), cv=2),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_scores_that_an_estimator_makes_compute_where_it_does(estimator):
    X, *rest = problem()
    with emulated_cuda() as seen:
        clone(estimator).fit(X, *rest).predict_uncertainty(X)
    assert not seen.ops.total()


def test_what_is_not_fitted_keeps_its_device_and_fit_says_what_is_missing():
    X, y, W, b = problem()
    with pytest.raises(ValueError, match="device='cuda' was requested, but torch finds no CUDA"):
        pickle.loads(pickle.dumps(MarginScorer(device="cuda"))).fit(X, y, W, b)


def test_a_cuda_device_that_is_not_there_is_refused_by_its_number():
    with emulated_cuda(), pytest.raises(ValueError, match=r"device='cuda:1'.* finds 1 CUDA device"):
        MarginScorer(device="cuda:1").fit(*problem())


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_head_saved_where_cuda_was_computes_on_a_machine_without(device, tmp_path):
    X, *rest = problem()
    with emulated_cuda():
        fitted = MahalanobisScorer(device=device).fit(X, *rest)
        save_head(fitted, tmp_path / "head")
        expected = load_head(tmp_path / "head").estimator.predict_uncertainty(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if device == "cuda":
            with pytest.warns(UserWarning, match="fitted with device='cuda'.*here the CPU"):
                loaded = load_head(tmp_path / "head").estimator
        else:
            loaded = load_head(tmp_path / "head").estimator
    assert_same([loaded.predict_uncertainty(X)], [expected])


@pytest.fixture
def lora(make_saved_case):
    return make_saved_case("roberta", 2)


def test_texts_on_cuda_give_the_features_that_they_give_on_the_cpu(lora, tmp_path):
    expected = compute_features(load_classifier(lora.adapter, device="cpu"), lora.texts)
    with emulated_cuda() as seen:
        classifier = load_classifier(lora.adapter, dtype=torch.float32)
        assert classifier.device.type == "cuda"
        store = extract_features(classifier, lora.texts, tmp_path / "store")
        live = copy.deepcopy(lora.live).to("cuda")
        of_live = compute_features(load_classifier(live, tokenizer=lora.tokenizer), lora.texts)
        assert seen.ops["addmm"]
    assert_same([store.features, *of_live], [expected[0], *expected])


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_views_of_texts_on_cuda_are_those_on_the_cpu(lora, pool):
    def views():
        options = {"dtype": torch.float32}
        main = load_classifier(lora.adapter, **options)
        base = load_classifier(lora.adapter, without_adapter=True, **options)
        asked = ModelViews(layers="all", pool=pool, base=base, companions={"same": main})
        found = compute_views(main, lora.texts, asked)
        return [found.block(name) for name in found.names]

    expected = views()
    with emulated_cuda() as seen:
        assert_same(views(), expected)
        assert seen.ops["addmm"]


def test_texts_run_in_bfloat16_on_cuda_by_default(lora):
    expected, _ = compute_features(
        load_classifier(lora.adapter, device="cpu", features="head"), lora.texts
    )
    with emulated_cuda():
        classifier = load_classifier(lora.adapter, features="head")
        features, _ = compute_features(classifier, lora.texts)
    assert classifier.provenance["precision"] == "bfloat16"
    np.testing.assert_allclose(features, expected, atol=0.1)


def test_a_pipeline_from_texts_moves_from_cuda_to_a_machine_without(lora):
    labels = np.arange(len(lora.texts)) % 2
    extractor = LoraFeatureExtractor(str(lora.adapter), dtype="float32", device="cuda", cache=None)
    pipe = UncertaintyPipeline([("texts", extractor), ("score", SoftmaxResponseScorer())])
    with emulated_cuda():
        expected = pipe.fit(lora.texts, labels).predict_uncertainty(lora.texts)
        saved = pickle.dumps(pipe)
    with pytest.warns(UserWarning, match="fitted with device='cuda'.*here the CPU"):
        moved = pickle.loads(saved)
    assert_same([moved.predict_uncertainty(lora.texts)], [expected])


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_predict_computes_on_the_device_that_it_is_told(device, lora, tmp_path, adue):
    classifier = load_classifier(lora.adapter, device="cpu")
    features, logits = compute_features(classifier, lora.texts)
    fitted = SoftmaxResponseScorer().fit(
        features, logits.argmax(1), classifier.head.init_W, classifier.head.init_b
    )
    save_head(fitted, tmp_path / "head", provenance=classifier.provenance)
    (tmp_path / "texts.jsonl").write_text('{"text": "w1 w2"}\n', encoding="utf-8")
    files = [tmp_path / "head", lora.adapter, tmp_path / "texts.jsonl"]
    options = ["--out", tmp_path / "scored.jsonl", "--dtype", "float32", "--device", device]
    with emulated_cuda() as seen:
        status, *said = adue("predict", *files, *options)
    assert status == 0, said
    assert bool(seen.ops.total()) == (device == "auto")


@pytest.mark.parametrize(
    ("n_classes", "hidden", "most"), [(2, None, 90), (3, None, 110), (3, 5, 120)]
)
def test_an_evaluation_waits_for_the_device_once_each_way(n_classes, hidden, most):
    """A bound on kernels near what they were, so that they do not grow."""
    args, activation = problem(n_classes, hidden=hidden), "tanh" if hidden else None

    def count(max_iter):
        with emulated_cuda() as seen:
            AdUEEstimator(max_iter=max_iter, tol=1e-12, activation=activation).fit(*args)
        return seen.ops.total(), sum(of == "to host" for of, _ in seen.waits.elements()), seen.waits

    (few, few_answers, _), (many, many_answers, waits) = count(2), count(7)
    evaluations = many_answers - few_answers  # each says once what it gave
    assert many - few <= most * evaluations
    assert waits.total() <= 2 * many_answers + 40  # those before and after


@pytest.mark.parametrize("estimator", [AdUEEstimator(), AdUESearchCV({"beta": [0.1, 1.0]}, cv=2)])
def test_features_reach_the_device_once_a_fit(estimator):
    X, *rest = problem()
    with emulated_cuda() as seen:
        quick(estimator).fit(X, *rest)
    assert seen.sizes.count(X.size) == 1
    assert max(seen.sizes) == X.size


def test_samples_of_a_posterior_are_drawn_together():
    X, *rest = problem()
    scorer = LastLayerLaplaceScorer(predictive="monte_carlo", random_state=0).fit(X, *rest)
    with emulated_cuda() as seen:
        scorer.predict_uncertainty(X)
    assert seen.ops.total() < scorer.n_samples


@pytest.fixture(params=["tf32", "ieee"])
def precision(request):
    """torch's newer setting; where it is in use, reading the older one raises."""
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("this torch has the older setting only")
    before, matmul.fp32_precision = matmul.fp32_precision, request.param
    yield request.param
    matmul.fp32_precision = before


def test_tf32_is_known_from_the_newer_setting_too(precision):
    with emulated_cuda():
        eps = head_eps(torch.nn.Linear(2, 2).to("cuda"))
    assert eps == (2.0**-10 if precision == "tf32" else 2.0**-23)


def test_the_emulation_is_as_strict_as_cuda():
    with emulated_cuda() as seen:
        x, host = torch.ones(3, 2, device="cuda"), torch.ones(3, 2)
        assert isinstance(x + 1 + torch.tensor(1.0), CudaTensor)  # numbers may be on the host
        assert x[torch.tensor([0, 1])].device.type == "cuda"  # and indices
        for wrong in (
            lambda: x + host,
            lambda: x @ host.T,
            lambda: torch.cat([x, host]),
            lambda: torch.zeros(()).add_(x.sum()),
            lambda: host[torch.zeros(1, dtype=torch.int64, device="cuda")],
        ):
            with pytest.raises(RuntimeError, match="same device"):
                wrong()
        for wrong in (x.numpy, lambda: np.asarray(x)):
            with pytest.raises(TypeError, match="can't convert cuda"):
                wrong()
        waits = seen.waits.total()
        assert bool((x > 0).all())
        assert seen.waits.total() == waits + 1
        x.data = x.data * 2
        assert f"{x.sum():.0f}" == "12"
        assert torch.autograd.grad(x.requires_grad_().tanh().sum(), x)[0].is_cuda
