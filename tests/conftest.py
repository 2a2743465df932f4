"""Fixtures shared by the tests."""

from __future__ import annotations

import os
import sys

import pytest
import torch
from hypothesis import settings

from tests import profiles  # noqa: F401 (registers them)
from tests.marks import printed_warnings
from tests.problems import DEVICES, Problem

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
torch.set_num_threads(1)
settings.load_profile("quick")  # --hypothesis-profile=deep, read after this, replaces it


@pytest.fixture
def problem():
    return Problem()


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture
def adue(monkeypatch, capsys):
    """Run ``adue ARGUMENTS``; return exit status, lines of standard output, and standard error."""
    from adue_sklearn import cli
    from adue_sklearn.cli.console import console

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["adue", *map(str, arguments)])
        monkeypatch.setattr(console, "width", 200)
        status = 0
        try:
            with printed_warnings():
                cli.main()
        except SystemExit as stop:
            status = stop.code or 0
        out, err = capsys.readouterr()
        lines = [" ".join(line.split()) for line in out.splitlines()]
        return status, "\n".join(lines), " ".join(err.split())

    return run


@pytest.fixture(scope="session")
def movie():
    from adue_sklearn.datasets import load_movie_sentiment

    return load_movie_sentiment()


@pytest.fixture(scope="session")
def make_saved_case(tmp_path_factory):
    """Return a factory of LoRA classifiers, each made once a session unless it has options."""
    from tests.lora_cases import make_case

    made = {}

    def make(family, n_classes=2, **options):
        key = (family, n_classes) if not options else None
        if key is None or key not in made:
            case = make_case(
                tmp_path_factory.mktemp(f"{family}{n_classes}"), family, n_classes, **options
            )
            if key is None:
                return case
            made[key] = case
        return made[key]

    return make
