"""What is loaded when: names of the package and help of the command line come at once."""

import subprocess
import sys

import pytest

import adue_sklearn

HEAVY = ("numpy", "scipy", "sklearn", "torch", "transformers", "peft")


def loaded_by(code):
    """Return which heavy modules a new process has loaded after some code."""
    code += f"\nimport sys; print(*sorted(set({HEAVY!r}) & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.splitlines()[-1]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["fit", "--help"]])
def test_help_and_version_load_nothing_heavy(arguments):
    code = f"import sys; sys.argv = ['adue', *{arguments!r}]\nfrom adue_sklearn.cli import main\n"
    code += "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code"
    assert loaded_by(code) == ""


def test_the_package_loads_a_name_when_it_is_first_asked_for():
    assert loaded_by("import adue_sklearn; dir(adue_sklearn)") == ""
    assert "sklearn" in loaded_by("from adue_sklearn import AdUEEstimator")


def test_every_name_of_the_package_is_there_and_listed():
    assert set(adue_sklearn.__all__) <= set(dir(adue_sklearn))
    assert all(getattr(adue_sklearn, name) is not None for name in adue_sklearn.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = adue_sklearn.no_such_name
