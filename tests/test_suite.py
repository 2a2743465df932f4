"""The tests themselves: what they share lies in helper modules, so that any order and part runs."""

import re
from pathlib import Path

MODULES = {path.name: path.read_text("utf-8") for path in Path(__file__).parent.rglob("test_*.py")}


def test_no_test_module_imports_another():
    another = re.compile(r"^\s*(from|import) +tests\S*\btest_|^\s*from tests.*\btest_", re.M)
    assert [name for name, text in MODULES.items() if another.search(text)] == []


def test_no_test_sets_its_own_number_of_examples():
    owned = re.compile(r"\bmax_examples\s*=")
    others = {name: text for name, text in MODULES.items() if name != Path(__file__).name}
    assert [name for name, text in others.items() if owned.search(text)] == []
