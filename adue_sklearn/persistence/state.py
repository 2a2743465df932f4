"""A fitted estimator as plain JSON beside arrays with names, and back.

An estimator is ``{"class", "params", "attributes"}``, whatever it holds. Numbers, text, None and
lists stand for themselves. Everything else is an object of one or two keys:

- ``{"array": NAME, "dtype", "shape"}``: numbers; the name is the path, as ``estimators_.0.coef_``;
- ``{"strings": LIST, "dtype"}``: an array of text or of objects;
- ``{"masked": ARRAY, "mask": ARRAY}``: a masked array;
- ``{"tuple": LIST}``, ``{"dict": OBJECT}``, and ``{"items": PAIRS}`` for keys that are not text;
- ``{"class": NAME, "fields": OBJECT}``: an object that is no estimator, such as a comparison;
- ``{"same": PATH}``: the estimator that was described there.

Attributes come before parameters, so a frozen score is described where it computes. Classes are
those of two tables; nothing is imported by a name that a file holds.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import KFold, StratifiedKFold

from adue_sklearn import scorers
from adue_sklearn._utils.row_digests import FITTED_ON, Digests
from adue_sklearn.adue import AdUEEstimator, AdUESearchCV
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.calibration import ErrorProbability
from adue_sklearn.comparison import AutoScorer
from adue_sklearn.comparison.result import Comparison, ScoreResult
from adue_sklearn.metrics import Difference, ErrorScorer, Estimate
from adue_sklearn.selective import SelectiveClassifier

Arrays = Mapping[str, npt.NDArray[Any]]

#: What can be described and made again: every score, and what scores hold.
ESTIMATORS: dict[str, type[BaseEstimator]] = {
    cls.__name__: cls
    for cls in (
        AdUEEstimator,
        AdUESearchCV,
        AutoScorer,
        ErrorProbability,
        SelectiveClassifier,
        FrozenEstimator,
        *vars(scorers).values(),
    )
    if isinstance(cls, type) and issubclass(cls, BaseEstimator)
}
#: Of those, what can be saved as a head.
SCORES = sorted(n for n, cls in ESTIMATORS.items() if issubclass(cls, UncertaintyEstimator))
#: Objects that are parameters or results of estimators; all are made of their fields.
_RECORDS: dict[str, type] = {
    cls.__name__: cls
    for cls in (Comparison, ScoreResult, Estimate, Difference, ErrorScorer, KFold, StratifiedKFold)
}
#: Parameters that do not change what a score means: where it computes, and what a row gets that
#: has no score otherwise.
_NO_MATTER = ("device", "fallback")
_STRING_TYPES: dict[str, Any] = {"U": str, "T": str, "O": object}
_DIGESTS: TypeAdapter[str] = TypeAdapter(Digests)


def check_saveable(estimator: Any) -> None:
    """Raise a TypeError if this kind of estimator cannot be saved, fitted or not."""
    name = type(estimator).__name__
    if ESTIMATORS.get(name) is not type(estimator) or name not in SCORES:
        raise TypeError(
            f"estimator is a {name}, which cannot be saved as a head; expected one of "
            f"{', '.join(SCORES)}."
        )


def as_json(name: str, value: Any) -> Any:
    """Return a value that JSON can hold; numpy's numbers become Python's."""
    if isinstance(value, np.generic):
        return value.item()
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} holds a value that JSON cannot represent: {error}.") from error
    return value


def described(
    estimator: UncertaintyEstimator, *, with_head: bool = True
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Return a fitted estimator as JSON, and its arrays by name.

    The rows that it was fitted on are not part of it; those of estimators that it holds are.
    Without a head, as a sidekick is, it need not be fitted.
    """
    check_saveable(estimator)
    name = type(estimator).__name__
    if with_head and not hasattr(estimator, "classes_"):
        raise ValueError(f"estimator: this {name} is not fitted; call fit before saving it.")
    if isinstance(estimator, AdUESearchCV) and not estimator.refit:
        raise ValueError(
            "estimator: this AdUESearchCV was fitted with refit=False, so it has no score to "
            "save; set refit=True and fit it again."
        )
    writer = _Writer()
    description = writer.estimator(estimator, "", "estimator")
    description["attributes"].pop(FITTED_ON, None)
    return description, writer.arrays


class _Writer:
    """Describes values. A path says where a value is, ``what`` whether in a parameter."""

    def __init__(self) -> None:
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        self._seen: dict[int, str] = {}

    def estimator(self, estimator: BaseEstimator, path: str, what: str) -> dict[str, Any]:
        name = type(estimator).__name__
        if ESTIMATORS.get(name) is not type(estimator):
            raise TypeError(
                f"{what} {path} is a {name}, which cannot be saved; expected one of "
                f"{', '.join(ESTIMATORS)}."
            )
        if id(estimator) in self._seen:
            return {"same": self._seen[id(estimator)]}
        self._seen[id(estimator)] = path
        params = estimator.get_params(deep=False)
        # scikit-learn's callbacks are no part of a score.
        fitted = {
            key: value
            for key, value in vars(estimator).items()
            if key not in params and not key.startswith("_skl")
        }
        attributes = self._all(fitted, path, "attribute")
        return {
            "class": name,
            "params": self._all(params, path, "parameter"),
            "attributes": attributes,
        }

    def _all(self, values: Mapping[str, Any], path: str, what: str) -> dict[str, Any]:
        return {name: self._value(v, _join(path, name), what) for name, v in values.items()}

    def _value(self, value: Any, path: str, what: str) -> Any:
        if isinstance(value, BaseEstimator):
            return self.estimator(value, path, what)
        if _RECORDS.get(type(value).__name__) is type(value):
            fields = self._all(_fields(value), path, what)
            return {"class": type(value).__name__, "fields": fields}
        if isinstance(value, np.ma.MaskedArray):
            data, mask = np.asarray(value.data), np.ma.getmaskarray(value)
            return {
                "masked": self._value(data, _join(path, "data"), what),
                "mask": self._value(mask, _join(path, "mask"), what),
            }
        if isinstance(value, np.ndarray):
            return self._array(value, path, what)
        if isinstance(value, list):
            return self._list(value, path, what)
        if isinstance(value, tuple):
            return {"tuple": self._list(value, path, what)}
        if isinstance(value, dict):
            if all(isinstance(key, str) for key in value):
                return {"dict": self._all(value, path, what)}
            return {
                "items": [
                    [as_json(f"{what} {path}", key), self._value(v, _join(path, key), what)]
                    for key, v in value.items()
                ]
            }
        return as_json(f"{what} {path}", value)

    def _list(self, values: Any, path: str, what: str) -> list[Any]:
        if all(type(value) is str for value in values):  # perhaps a vocabulary
            return list(values)
        return [self._value(v, _join(path, number), what) for number, v in enumerate(values)]

    def _array(self, array: npt.NDArray[Any], path: str, what: str) -> dict[str, Any]:
        if array.dtype.kind not in "iufb":
            strings = as_json(f"{what} {path}", array.tolist())
            return {"strings": strings, "dtype": array.dtype.kind}
        name = path
        while name in self.arrays:  # a key of a dict may hold a dot
            name += "'"
        self.arrays[name] = np.asarray(array, order="C")
        return {"array": name, "dtype": str(array.dtype), "shape": list(array.shape)}


class Reader:
    """Makes what was described. ``made`` are the estimators by their paths, inner ones first."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self.made: dict[str, BaseEstimator] = {}

    def estimator(self, node: Mapping[str, Any], path: str = "") -> BaseEstimator:
        """Return an estimator; raise if something is missing, unknown or inconsistent."""
        name = node["class"]
        if name not in ESTIMATORS:
            where = f"{path} is" if path else "it holds"
            raise ValueError(f"{where} a {name}; expected {', '.join(sorted(ESTIMATORS))}")
        cls = ESTIMATORS[name]
        attributes = self._all(node["attributes"], path)
        params = self._all(node["params"], path)
        estimator = cls(**params)
        if hasattr(cls, "_parameter_constraints"):
            estimator._validate_params()
        if FITTED_ON in attributes:
            _DIGESTS.validate_python(attributes[FITTED_ON], strict=True)
        for key, value in attributes.items():
            if hasattr(cls, key) or key in params:
                raise ValueError(f"{_join(path, key)!r} is not an attribute of a fitted {name}")
            setattr(estimator, key, value)
        self.made[path] = estimator
        return estimator

    def _all(self, nodes: Mapping[str, Any], path: str) -> dict[str, Any]:
        if not isinstance(nodes, dict):
            raise ValueError(f"{path or 'it'} holds {nodes!r}; expected values by name")
        return {name: self._value(node, _join(path, name)) for name, node in nodes.items()}

    def _value(self, node: Any, path: str) -> Any:
        if isinstance(node, list):
            return self._list(node, path)
        if not isinstance(node, dict):
            return node
        match sorted(node):
            case ["array", "dtype", "shape"]:
                return self._array(node, path)
            case ["dtype", "strings"]:
                return np.array(node["strings"], dtype=_STRING_TYPES[node["dtype"]])
            case ["mask", "masked"]:
                data, mask = (self._value(node[key], path) for key in ("masked", "mask"))
                return np.ma.MaskedArray(data, mask=mask)
            case ["tuple"]:
                return tuple(self._list(node["tuple"], path))
            case ["dict"]:
                return self._all(node["dict"], path)
            case ["items"]:
                return {key: self._value(value, _join(path, key)) for key, value in node["items"]}
            case ["same"]:
                if node["same"] not in self.made:
                    raise ValueError(f"{path} is the same as {node['same']!r}, which is missing")
                return self.made[node["same"]]
            case ["class", "fields"]:
                return self._record(node, path)
            case ["attributes", "class", "params"]:
                return self.estimator(node, path)
        raise ValueError(f"{path} is an object with {sorted(node)}, which describes no value")

    def _list(self, nodes: list[Any], path: str) -> list[Any]:
        return [self._value(node, _join(path, number)) for number, node in enumerate(nodes)]

    def _array(self, node: Mapping[str, Any], path: str) -> npt.NDArray[Any]:
        name = node["array"]
        if name not in self._arrays:
            raise ValueError(f"the array {name!r} of {path} is missing")
        array = self._arrays[name]
        if str(array.dtype) != node["dtype"] or list(array.shape) != node["shape"]:
            raise ValueError(
                f"the array {name!r} has shape {array.shape} and dtype {array.dtype}; expected "
                f"{node['shape']} and {node['dtype']}"
            )
        return array

    def _record(self, node: Mapping[str, Any], path: str) -> Any:
        name = node["class"]
        if name not in _RECORDS:
            raise ValueError(f"{path} is a {name}; expected {', '.join(sorted(_RECORDS))}")
        record = _from_fields(_RECORDS[name], self._all(node["fields"], path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            repr(record)  # what cannot be shown is damaged
        return record


def from_version_1(document: Mapping[str, Any], arrays: Arrays) -> dict[str, Any]:
    """Return the description of an estimator that format version 1 holds.

    It held no estimators: parameters without dicts, whose lists are tuples, and attributes that
    are arrays, lists of arrays, dicts or plain values.
    """
    attributes: dict[str, Any] = {
        name: {"dict": value} if _is_plain_dict(value) else value
        for name, value in document["attributes"].items()
    }
    for key in sorted(arrays, key=_list_order):
        array = arrays[key]
        node = {"array": key, "dtype": str(array.dtype), "shape": list(array.shape)}
        name, _, place = key.partition(".")
        if place:
            attributes.setdefault(name, []).append(node)
        else:
            attributes[name] = node
    params = {
        name: {"tuple": value} if isinstance(value, list) else value
        for name, value in document["params"].items()
    }
    return {"class": document["class"], "params": params, "attributes": attributes}


def essence(node: Any) -> Any:
    """Return of a description what says which score it is, without arrays, devices and fit rows.

    Estimators that hold no others have that which they had before others could be described, so
    that the thresholds that name them remain valid.
    """
    if isinstance(node, list):
        return [essence(part) for part in node]
    if not isinstance(node, dict):
        return node
    if "params" in node:
        params = {k: essence(v) for k, v in node["params"].items() if k not in _NO_MATTER}
        attributes = {
            k: essence(v)
            for k, v in node["attributes"].items()
            if k != FITTED_ON and not _is_of_arrays(v)
        }
        return [node["class"], params, attributes]
    if "tuple" in node:
        return essence(node["tuple"])
    inner = node.get("dict", node)
    return {name: essence(value) for name, value in inner.items()}


def _is_of_arrays(node: Any) -> bool:
    if isinstance(node, list):
        return all(map(_is_of_arrays, node))
    return isinstance(node, dict) and "array" in node


def _is_plain_dict(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() != {"strings", "dtype"}


def _fields(record: Any) -> dict[str, Any]:
    if hasattr(record, "_asdict"):
        return dict(record._asdict())
    return record.__getstate__() if isinstance(record, ErrorScorer) else dict(vars(record))


def _from_fields(cls: type, fields: dict[str, Any]) -> Any:
    if cls is not ErrorScorer:
        return cls(**fields)
    scorer = ErrorScorer.__new__(ErrorScorer)
    scorer.__setstate__(fields)  # finds a metric of ours by its name
    return ErrorScorer(**vars(scorer))


def _join(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)


def _list_order(key: str) -> tuple[str, int]:
    name, _, place = key.partition(".")
    return name, int(place or 0)
