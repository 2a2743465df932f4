"""Numbers of threads while fits run beside each other, and after them."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from adue_sklearn import AdUEEstimator
from adue_sklearn._torch import threads_for
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
