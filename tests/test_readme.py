"""Python snippets of the README and of a page run, one after the other, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests import marks

README = Path(__file__).parents[1] / "README.md"


def run(snippets):
    """Return the names that the snippets leave."""
    names = {}
    for snippet in snippets:
        exec(compile(snippet, str(README), "exec"), names)
    return names


@marks.few_rows
def test_the_snippets_run_and_print_what_they_promise(tmp_path, monkeypatch, capsys):
    snippets = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(snippets) == 7
    monkeypatch.chdir(tmp_path)  # the last one writes a store and a head
    with pytest.warns(UserWarning, match="X: 2 of 2256 rows are also in X_train"):
        names = run(snippets)
    printed = capsys.readouterr().out.splitlines()
    assert 0.8 < float(printed[0]) < 0.9
    assert printed[1].startswith("Estimate(value=")
    assert np.isfinite(names["uncertainty"]).all()
    assert names["found"].winners == ("stack", "AdUE")
    assert (tmp_path / "risk.png").stat().st_size > 0
    assert (tmp_path / "head" / "estimator.json").exists()


def test_the_snippet_on_second_opinions_runs_and_both_gain():
    page = README.parent / "docs" / "second-opinions.md"
    names = run(re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL))
    assert names["uncertainty"].shape == (300,)
    gains = names["scorer"].gains_
    assert set(gains) == {"sidekick", "layers"}
    assert min(gain[0] for gain in gains.values()) > 0
