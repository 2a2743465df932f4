"""The page about the house is what the house is."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_floors_on_the_page_are_those_of_the_contract():
    made = runpy.run_path(str(ROOT / "docs" / "make_architecture.py"))
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert page == made["page"](), "run python docs/make_architecture.py"


def test_every_room_of_the_contract_is_there_and_has_a_docstring():
    made = runpy.run_path(str(ROOT / "docs" / "make_architecture.py"))
    for contract in made["contracts"]():
        for layer in contract["layers"]:
            for room in layer.replace(" ", "").split("|"):
                assert made["purpose"](contract["containers"][0], room)
