"""What others wrote reaches no terminal and no page as a command to it."""

import json
import re

import pytest
from rich.table import Table

from adue_sklearn import EntropyScorer, SoftmaxResponseScorer
from adue_sklearn._utils.messages import printable
from adue_sklearn.adue import search
from adue_sklearn.cli.console import SafeConsole
from adue_sklearn.features import FeatureStore
from adue_sklearn.persistence import save_head
from adue_sklearn.report import make_report
from tests.problems import Problem

#: Sets the window's title, clears the screen, C1's short form of that, writes backwards.
HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m\u202ecba"
COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
PROBLEM = Problem(n=120, d=4)


@pytest.fixture
def store(tmp_path):
    return FeatureStore.create(
        tmp_path / f"store{HOSTILE}",
        features=PROBLEM.X, labels=PROBLEM.y, init_W=PROBLEM.W, init_b=PROBLEM.b,
        classes=[f"a{HOSTILE}", "b", "c"],
        provenance={"model": HOSTILE, f"key{HOSTILE}": {HOSTILE: HOSTILE}},
    )  # fmt: skip


@pytest.fixture
def head(tmp_path, store):
    scorer = SoftmaxResponseScorer().fit(*PROBLEM.fit_args)
    return save_head(
        scorer, tmp_path / "head", provenance=store.provenance, class_names=store.classes
    )


def test_every_control_character_is_written_out_as_json_writes_it():
    odd = "".join(map(chr, [*range(9), *range(11, 32), *range(127, 160), 0x202E, 0x2066, 0xD800]))
    assert printable(odd).isascii()
    assert json.loads(f'"{printable(odd)}"') == odd
    ordinary = "tab\there\nline é 好 \N{ZERO WIDTH JOINER} \U0001f600"
    assert printable(ordinary) == ordinary


def test_tables_keep_their_shape_and_colours_their_codes(capsys):
    console = SafeConsole(width=60, force_terminal=True, color_system="standard")
    table = Table("name", "number")
    table.add_row(f"[red]x[/red]{HOSTILE}", "1")
    console.print(table)
    out, _ = capsys.readouterr()
    assert "\x1b[31mx" in out  # rich's own
    assert "\x1b]0" not in out
    assert "\x1b[2J" not in out
    assert not set(out) & set("\x07\x9b\u202e")
    lines = [re.sub("\x1b\\[[0-9;]*m", "", line) for line in out.splitlines()]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    "command",
    ["store info", "store verify", "evaluate", "compare", "threshold", "report"],
)
def test_no_output_of_a_command_holds_a_control_character(
    command, adue, store, head, tmp_path, monkeypatch
):
    monkeypatch.setattr(search, "DEFAULT_GRID", {"beta": [0.1]})
    arguments = {
        "evaluate": [head, store.path],
        "compare": [store.path, "--scorers", "Entropy,KNN", "--cv", "2"],
        "report": [store.path, "--out", tmp_path / f"{HOSTILE}.html"],
    }.get(command, [store.path])
    _, out, err = adue(*command.split(), *arguments)
    assert "title" in out + err or command in ("evaluate", "compare", "threshold")
    assert not COMMANDS.search((out + err).replace("\n", " "))


def test_a_line_feed_in_a_class_name_breaks_no_line(adue, problem, tmp_path):
    rows = problem.y > 0  # none of the first class, whose name is told
    store = FeatureStore.create(
        tmp_path / "store", features=problem.X[rows], labels=problem.y[rows],
        init_W=problem.W, init_b=problem.b, classes=["two\nlines", "a\tb", "c"],
        provenance={"model": "here\nthere"},
    )  # fmt: skip
    _, out, _ = adue("store", "info", store.path)
    assert "classes: 3 (two\\nlines, a\\tb, c)" in out.splitlines()
    assert "model: here\\nthere" in out.splitlines()
    status, out, err = adue("compare", store.path, "--scorers", "entropy", "--cv", 2)
    assert status == 0
    assert "has no rows of class two\\nlines" in out
    assert "has no rows of class two\\nlines (rows: two\\nlines 0, a\\tb" in err


@pytest.mark.parametrize("options", [[], ["--debug"]])
def test_no_error_holds_a_control_character(options, adue, tmp_path):
    status, out, err = adue(*options, "store", "info", tmp_path / HOSTILE)
    assert status == 1
    assert "\\u001b]0;title" in err
    assert not COMMANDS.search(out + err)


def test_the_report_holds_no_control_character(store):
    page = make_report(
        store, texts=[HOSTILE] * len(store), target_risk=0.5, scorers=[EntropyScorer()]
    )
    assert "\\u001b]0;title" in page
    assert "\\u202ecba" in page
    assert not COMMANDS.search(page)
