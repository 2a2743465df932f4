"""What fits set for the whole process, threads and TF32: while they run, and after them."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from adue_sklearn import AdUEEstimator, KNNScorer, MahalanobisScorer, TrustScoreScorer
from adue_sklearn._utils.arrays import exact_products, threads_for
from tests.problems import Problem


def thread_counts():
    """Return the threads of every BLAS, and torch's in this thread."""
    blas = [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]
    return blas, torch.get_num_threads()


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    with threadpool_limits(2, user_api="blas"):
        torch.set_num_threads(2)
        yield thread_counts()
        torch.set_num_threads(before)


def test_concurrent_fits_leave_all_threads_as_they_were(two_threads):
    args, together = Problem(n=200, d=6).fit_args, Barrier(4)

    def fit(number):
        together.wait()
        AdUEEstimator(max_iter=5 + number, tol=1e-12).fit(*args)
        return torch.get_num_threads()

    with ThreadPoolExecutor(4) as pool, pytest.warns(UserWarning, match="converge"):
        assert list(pool.map(fit, range(4))) == [2] * 4
    assert thread_counts() == two_threads


def test_blas_has_one_thread_until_the_last_descent_ends(two_threads):
    first, second = threads_for(10), threads_for(10)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert set(thread_counts()[0]) == {1}
    second.__exit__(None, None, None)
    assert thread_counts() == two_threads


def test_a_large_descent_beside_a_small_one_keeps_torchs_threads(two_threads):
    with threads_for(10):
        assert torch.get_num_threads() == 1
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(threads_within, 2**24).result() == 2
    assert thread_counts() == two_threads


def threads_within(elements):
    with threads_for(elements):
        return torch.get_num_threads()


def tf32_is_allowed():
    matmul = torch.backends.cuda.matmul
    newer = getattr(matmul, "fp32_precision", None)
    return matmul.allow_tf32 if newer is None else newer == "tf32"


@pytest.fixture
def tf32():
    """What a training script may have set: TF32 for every product."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


def test_tf32_is_off_during_descents_distances_and_scores_and_back_on_afterwards(tf32, monkeypatch):
    seen = []

    def watched(product):
        def multiply(*args, **kwargs):
            if args[-1].dtype == torch.float32:  # others never are in TF32
                seen.append(tf32_is_allowed())
            return product(*args, **kwargs)

        return multiply

    problem = Problem(n=60, d=4)
    for name in ("__matmul__", "addmm"):
        monkeypatch.setattr(torch.Tensor, name, watched(getattr(torch.Tensor, name)))
    monkeypatch.setattr(torch, "addmm", watched(torch.addmm))
    for estimator in (AdUEEstimator(), KNNScorer(), TrustScoreScorer(), MahalanobisScorer()):
        seen.clear()
        estimator.fit(problem.X.astype(np.float32), *problem.fit_args[1:])
        estimator.predict_uncertainty(problem.X.astype(np.float32))
        assert seen, type(estimator).__name__
        assert not any(seen), type(estimator).__name__
    assert torch.get_float32_matmul_precision() == "high"


def test_tf32_comes_back_with_the_last_that_forbade_it(tf32):
    with exact_products:
        with exact_products:
            pass
        assert not tf32_is_allowed()
    assert tf32_is_allowed()
