"""What a new process loads and when, and that it heeds the lock of another.

Names of the package and help of the command line come at once; libraries when they are needed.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import adue_sklearn
from adue_sklearn.features import FeatureStore, FeatureStoreWriter

HEAVY = {"numpy", "scipy", "sklearn", "torch"}
OPTIONAL = {"transformers", "peft", "datasets", "matplotlib"}

#: One process does all of it, one after the other, and says what it has loaded after each.
STEPS = f"""
import json, sys

def tell(step, **more):
    loaded = sorted({HEAVY | OPTIONAL!r} & sys.modules.keys())
    print(json.dumps({{"step": step, "loaded": loaded, **more}}))

import adue_sklearn
dir(adue_sklearn)
tell("package")
import adue_sklearn.datasets
from adue_sklearn import AdUEEstimator
tell("estimator")
from adue_sklearn.exceptions import StoreError
from adue_sklearn.features import FeatureStore
store = FeatureStore.open(sys.argv[1])
tell("store", rows=len(store.features))
try:
    store.append(features=[[0, 0, 0]])
except StoreError as error:
    tell("append", error=str(error))
import adue_sklearn.plotting, adue_sklearn.report
tell("plots")
sys.modules["matplotlib"] = None
try:
    adue_sklearn.plotting.RiskCoverageDisplay.from_predictions([0, 1], [0.1, 0.2])
except ModuleNotFoundError as error:
    tell("without matplotlib", error=str(error))
"""


def run(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Return what a new process said of each step, while this one held the store's lock."""
    path = tmp_path_factory.mktemp("new") / "store"
    FeatureStore.create(path, features=np.ones((4, 3)), init_W=np.ones((2, 3)))
    with FeatureStoreWriter(path, init_W=np.ones((2, 3)), labelled=False, append=True) as writer:
        said = [json.loads(line) for line in run(STEPS, path)]
        writer.write_shard(np.ones((1, 3)), np.zeros((1, 2)), None, [4])
    assert len(FeatureStore.open(path)) == 5
    return {each["step"]: each for each in said}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["fit", "--help"]])
def test_help_and_version_load_nothing_heavy(arguments):
    code = f"import sys; sys.argv = ['adue', *{arguments!r}]\nfrom adue_sklearn.cli import main\n"
    code += "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
    code += f"print(*{HEAVY | OPTIONAL!r} & sys.modules.keys())"
    assert run(code)[-1] == ""


def test_the_package_loads_a_name_when_it_is_first_asked_for(told):
    assert told["package"]["loaded"] == []
    assert "sklearn" in told["estimator"]["loaded"]


def test_importing_estimators_and_datasets_imports_neither_transformers_nor_peft(told):
    assert not OPTIONAL & set(told["estimator"]["loaded"])


def test_a_store_is_read_without_transformers(told):
    assert told["store"]["rows"] == 4
    assert not OPTIONAL & set(told["store"]["loaded"])


def test_a_writer_in_another_process_is_refused_too(told):
    assert f"is being written by process {os.getpid()} on" in told["append"]["error"]


def test_matplotlib_is_imported_when_something_is_drawn_and_named_where_it_is_not_installed(told):
    assert "matplotlib" not in told["plots"]["loaded"]
    assert "pip install 'adue-sklearn[plot]'" in told["without matplotlib"]["error"]


def test_every_name_of_the_package_is_there_and_listed():
    assert set(adue_sklearn.__all__) <= set(dir(adue_sklearn))
    assert all(getattr(adue_sklearn, name) is not None for name in adue_sklearn.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = adue_sklearn.no_such_name
