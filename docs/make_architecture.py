"""Write the floors of ``docs/architecture.md`` from the contract in ``pyproject.toml``.

python docs/make_architecture.py

Between the page's two marks come a picture and a table: every room, on its floor, with the first
line of its docstring.
"""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_name("architecture.md")
BEGIN, END = "<!-- floors: written by make_architecture.py -->", "<!-- end of floors -->"


def page() -> str:
    """Return the page with its floors as the contract has them."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    return before + BEGIN + "\n\n" + floors() + "\n" + END + rest.split(END)[1]


def floors() -> str:
    """Return picture and table of every contract about floors."""
    parts = []
    for contract in contracts():
        (container,) = contract["containers"]
        layers = [layer.replace(" ", "").split("|") for layer in contract["layers"]]
        parts += [f"### {contract['name']}", picture(layers), table(container, layers)]
    return "\n\n".join(parts) + "\n"


def contracts() -> list[dict[str, list[str]]]:
    """Return the contracts about floors, in the order of the file."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [c for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]


def picture(layers: list[list[str]]) -> str:
    """Return a Mermaid diagram: one box a floor, which imports from all below it."""
    boxes = [f'    f{number}["{" · ".join(rooms)}"]' for number, rooms in enumerate(layers)]
    arrows = "    " + " --> ".join(f"f{number}" for number in range(len(layers)))
    return "\n".join(["```mermaid", "flowchart TB", *boxes, arrows, "```"])


def table(container: str, layers: list[list[str]]) -> str:
    """Return a table of rooms, from the top floor down."""
    rows = [f"| `{room}` | {purpose(container, room)} |" for rooms in layers for room in rooms]
    return "\n".join(["| room | what it is |", "|---|---|", *rows])


def purpose(container: str, room: str) -> str:
    """Return the first line of a room's docstring."""
    path = ROOT.joinpath(*container.split("."), room)
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n")[0].replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
