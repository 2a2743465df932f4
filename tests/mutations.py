"""Seeded damage to documents: fields deleted, replaced, nested, swapped; bytes flipped and cut."""

import copy
import json

#: What nobody who wrote a document put there.
ODD = [
    None, True, False, 0, 1, -1, 3, 10**30, -(10**30), 0.5, float("nan"), float("inf"), 1e300,
    "", "x", "1", "..", "../x", "a/b", "a\\b", ".", "NaN", "\x00", "\x1b]0;title\x07", "\u202etxt",
    "shard-00000.safetensors", "estimator.json", "cpu", "cuda:7", "float64",
    [], [[]], [None], [1, 2], ["a"], ["a", "a"], [1.5] * 3, [[0, 1], [1, 0]],
    {}, {"": None}, {"strings": [], "dtype": "O"}, {"strings": [[1]], "dtype": "U"}, {"file": ""},
]  # fmt: skip


def mutated_json(content, rng):
    """Return a JSON document (bytes) with one to three things changed in it."""
    document = json.loads(content)
    for _ in range(rng.integers(1, 4)):
        document = _changed(document, rng)
    return json.dumps(document).encode()


def mutated_bytes(content, rng):
    """Return bytes that were flipped, cut, doubled, or dug through."""
    place = int(rng.integers(len(content) + 1))
    size = int(rng.integers(1, 9))
    kind = rng.integers(7)
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + content[place + size :]
    if kind == 2:
        return content[:place] + content[place : place + size] + content[place:]
    if kind == 3:
        return content[:place] + rng.bytes(size) + content[place:]
    if kind == 4:
        return content[:place] + b"[" * 50_000 + content[place:]
    if kind == 5:
        words = [b"NaN", b"Infinity", b"-1", b"null", b"{}", b"1e999", b'"\\ud800"', b"\xff"]
        return content[:place] + words[rng.integers(len(words))] + content[place + size :]
    return b"".join(
        content[at : at + 1] if rng.random() > 3 / len(content) else rng.bytes(1)
        for at in range(len(content))
    )


def mutated(content, rng):
    """Return one kind of damage or the other; three of four know that it is JSON."""
    return (mutated_json if rng.random() < 0.75 else mutated_bytes)(content, rng)


def _changed(document, rng):
    document = copy.deepcopy(document)
    places = list(_places(document))
    if not places:
        return document
    holder, key = places[rng.integers(len(places))]
    value, kind = holder[key], rng.integers(8)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        holder[key] = [value]
    elif kind == 2:
        other, name = places[rng.integers(len(places))]
        holder[key] = copy.deepcopy(other[name])
    elif kind == 3 and isinstance(value, list) and value:
        value.append(copy.deepcopy(value[rng.integers(len(value))]))
    elif kind == 4 and isinstance(value, int | float):
        holder[key] = (-value, value + 1, value * 1000, float(value))[rng.integers(4)]
    elif kind == 5 and isinstance(holder, dict):
        holder[str(ODD[rng.integers(len(ODD))])] = holder.pop(key)
    else:
        holder[key] = ODD[rng.integers(len(ODD))]
    return document


def _places(document):
    for key in list(document) if isinstance(document, dict) else range(len(document)):
        yield document, key
        if isinstance(document[key], dict | list):
            yield from _places(document[key])


def content_of(folder):
    """Return the bytes of every file below a folder."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
