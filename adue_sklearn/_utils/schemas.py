"""Schemas of the documents that the package saves, and one error for every violation."""

from __future__ import annotations

import re
import reprlib
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from adue_sklearn._utils.json_files import read_json

_PLAIN_NAME = re.compile(r"[\w-][\w.-]*")
_MOST_PROBLEMS = 3


class Schema(BaseModel):
    """A document: no value is converted; unknown fields are for later versions."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)


_Checked = TypeVar("_Checked", bound=Schema)


def _plain_name(value: str) -> str:
    if _PLAIN_NAME.fullmatch(value) is None:
        raise ValueError("a file name in the same folder: letters, digits, '_', '.', '-'")
    return value


#: A document must not reach outside its folder.
PlainName = Annotated[str, AfterValidator(_plain_name)]


class Kind(NamedTuple):
    """A kind of document, for its errors.

    ``name`` as in "... cannot be read as a threshold", ``mend`` a sentence, ``newest`` the newest
    format version that is read; ``finite`` tells whether NaN and Infinity are refused.
    """

    name: str
    mend: str
    newest: int
    error: type[ValueError] = ValueError
    finite: bool = True

    def broken(self, where: object, what: object) -> ValueError:
        """Return the error for a document that cannot be read; ``what`` may be an exception."""
        problem = f"{what} is missing" if isinstance(what, KeyError) else str(what).rstrip(".")
        return self.error(f"'{where}' cannot be read as {self.name}: {problem}. {self.mend}")


def read_document(file: Path, kind: Kind) -> dict[str, Any]:
    """Return a JSON object of a version that is known; what it holds is not checked yet."""
    document = read_json(file, mend=kind.mend, error=kind.error, finite=kind.finite)
    if not isinstance(document, dict):
        raise kind.broken(file, f"it is {_shown(document)}; expected a JSON object")
    version = document.get("format_version")
    if type(version) is int and version > kind.newest:
        raise kind.error(
            f"'{file}' has format version {version}; this adue_sklearn reads versions 1 to "
            f"{kind.newest}. Upgrade adue-sklearn to read it."
        )
    return document


def check_document(document: Any, schema: type[_Checked], where: object, kind: Kind) -> _Checked:
    """Return a document as its schema, or raise the one error that says what is wrong with it."""
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        problems = [_problem(found) for found in error.errors(include_url=False)]
        raise kind.broken(where, "; ".join(problems[:_MOST_PROBLEMS])) from error


def _problem(found: Any) -> str:
    """Return one problem in words: the field, what it was, what is expected."""
    field = repr(".".join(map(str, found["loc"])))
    if found["type"] == "missing":
        return f"{field} is missing"
    expected = re.sub(r"^(Value error, |Input should be )", "", found["msg"])
    if not found["loc"]:  # fields that do not fit together
        return expected
    return f"{field} is {_shown(found['input'])}; expected {expected}"


def _shown(value: Any) -> str:
    return reprlib.repr(value)
