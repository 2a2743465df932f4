"""A few texts run through a model on loading: merged like unmerged, padded like alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from adue_sklearn.features._model.batching import Encoded, PaddingSide, encode, pad
from adue_sklearn.features._model.chain import find_whole_head
from adue_sklearn.features._model.finding import find_head, run_head
from adue_sklearn.features._model.heads import FoundHead, logit_scale
from adue_sklearn.features._model.hooks import accepted_inputs, model_logits

INPUTS = ("input_ids", "attention_mask", "token_type_ids")

_TEXTS = ("A short text.", "A text that is a good deal longer than the first one, word by word.")
_MORE = 6  # further rows of the batch, as long as the longer text
_FIRST_TOKENS = 300  # their tokens: bytes or letters, in most vocabularies
_SHORT, _LONG = 0, 1

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Probe:
    """Rows of a short text, a longer one, and some of its length with other tokens."""

    encoded: Encoded
    pad_id: int

    @classmethod
    def of(cls, model: Any, tokenizer: Any, max_length: int) -> Probe:
        """Tokenise the texts; raise if tokenizer and model do not fit."""
        vocabulary = int(model.get_input_embeddings().weight.shape[0])
        pad_id = int(model.config.get_text_config().pad_token_id)
        try:
            encoded = encode(tokenizer, _TEXTS, max_length, vocabulary)
        except ValueError as error:
            raise ValueError(
                f"tokenizer: '{tokenizer.name_or_path}' ({type(tokenizer).__name__}) does not fit "
                f"this model: it fails on a simple sentence ({error})."
            ) from error
        special = {*tokenizer.all_special_ids, pad_id}
        plain = [token for token in range(min(vocabulary, _FIRST_TOKENS)) if token not in special]
        columns = {
            name: [*rows, *(_with_other_tokens(name, rows[_LONG], plain, n) for n in range(_MORE))]
            for name, rows in encoded.columns.items()
        }
        cut = np.zeros(len(_TEXTS) + _MORE, dtype=np.bool_)
        return cls(Encoded(columns, cut, np.arange(len(cut))), pad_id)

    def inputs(self, model: Any, rows: range, side: PaddingSide) -> Mapping[str, torch.Tensor]:
        """Return these rows as a padded batch for this model."""
        return pad(
            self.encoded,
            np.array(rows, dtype=np.int64),
            names=accepted_inputs(model, INPUTS),
            pad_id=self.pad_id,
            side=side,
            device=model.device,
        )

    def one_by_one(self, model: Any) -> Logits:
        """Return the logits of the short and the long text, each run alone: (2, C)."""
        alone = [self.inputs(model, range(row, row + 1), "right") for row in (_SHORT, _LONG)]
        return np.concatenate(
            [model_logits(model, inputs).float().cpu().numpy() for inputs in alone]
        )

    def find_head(self, model: Any) -> FoundHead:
        """Find the head with a padded batch of both texts."""
        return find_head(model, self.inputs(model, range(_LONG + 1), "right"))

    def find_whole_head(self, model: Any, last: FoundHead) -> FoundHead:
        """Find the layers of the head before its last one."""
        return find_whole_head(model, last, self.inputs(model, self.everything, "right"))

    @property
    def everything(self) -> range:
        """All rows."""
        return range(len(self.encoded.truncated))

    @property
    def same_length(self) -> range:
        """The rows as long as the long text, which comes first."""
        return self.everything[_LONG:]


def _with_other_tokens(name: str, column: list[int], plain: list[int], n: int) -> list[int]:
    """Return the n-th row of the same length: other tokens between the first and the last.

    Those may be special ones, which some models have to find where they are.
    """
    if name != "input_ids" or not plain:
        return column
    inner = [plain[(7 * position + 31 * n) % len(plain)] for position in range(len(column) - 2)]
    return [*column[:1], *inner, *column[1:][-1:]]


@dataclass(frozen=True, eq=False)
class Yardstick:
    """What rounding may do to the logits of the probes, in the precision of a loaded model.

    Rounding grows through the layers, so the tolerance of a single layer (`check_batch`) would be
    too tight. Relative to the largest logit scale of two texts (`logit_scale`), 14 tiny random
    architectures and a tuned MiniLM were off by up to 6 machine epsilons in bfloat16 and 25 in
    float32, merged against unmerged and in batches against alone (``docs/architectures.md``). A
    lost adapter, a pooled pad token or mixed-up rows are off by tens of epsilons of bfloat16.

    Attributes
    ----------
    expected : ndarray of shape (2, C)
        Logits of the short and the long text, each run alone.
    scale : float
        The largest logit scale of the two.
    eps : float
        Machine epsilon of the precision in which the head runs.
    precision : str
        Its name.
    """

    expected: Logits
    scale: float
    eps: float
    precision: str

    @classmethod
    def of(cls, model: Any, head: FoundHead, probe: Probe) -> Yardstick:
        """Run both texts alone."""
        layer = model.get_submodule(head.module)
        alone = [
            run_head(model, head, probe.inputs(model, range(row, row + 1), "right"))
            for row in (_SHORT, _LONG)
        ]
        features, logits = (np.concatenate(parts) for parts in zip(*alone, strict=True))
        precision = str(layer.weight.dtype).removeprefix("torch.")
        if not np.isfinite(logits).all():
            raise ValueError(
                f"{type(model).__name__} gives NaN or inf for a simple sentence in {precision}: "
                "it overflows or its weights are damaged. Try dtype=torch.float32."
            )
        scale = float(logit_scale(head, features).max())
        return cls(logits, scale, head_eps(layer), precision)

    @property
    def relative(self) -> float:
        """The tolerance in units of the scale."""
        return max(16 * self.eps, 5e-5)

    def off(self, logits: Logits, rows: slice = slice(None)) -> float:
        """How far other logits of the texts are off, in units of the scale; NaN is infinite."""
        off = float(np.abs(logits - self.expected[rows]).max())
        scaled = off / max(self.scale, float(np.finfo(np.float32).tiny))
        return scaled if np.isfinite(scaled) else float("inf")

    def describe(self, off: float) -> str:
        """Say how far off, and how far is allowed, in logits."""
        return (
            f"off by {off * self.scale:.3g}, where {self.precision} explains "
            f"{self.relative * self.scale:.3g}"
        )


@dataclass(frozen=True)
class LoadChecks:
    """How a model was tried on loading. All differences are in units of the logit scale.

    Attributes
    ----------
    padding_side : {"right", "left"}
        The side on which padding leaves the logits as they are.
    tolerance : float
        What rounding may do in the precision of the model.
    batch_off : float
        How far a text was off in a batch with others of its length.
    padding_off : float
        How far two texts were off in a padded batch.
    merge_off : float or None
        How far the merged model was off from the unmerged one; None if there was no adapter.
    """

    padding_side: PaddingSide
    tolerance: float
    batch_off: float
    padding_off: float
    merge_off: float | None = None


def check_merge(unmerged: Logits, merged: Yardstick, kind: str) -> float:
    """Compare the logits before and after merging; return how far off.

    Raises
    ------
    ValueError
        They differ by more than the precision explains.
    """
    off = merged.off(unmerged)
    if off <= merged.relative:
        return off
    mend = (
        f"This {kind} adapter cannot be merged exactly into its weights; pass a model that was "
        "merged and tested elsewhere."
        if merged.precision == "float32"
        else "The adapter's updates are below the rounding of the weights, or rounding dominates "
        "the answers. Load with dtype=torch.float32."
    )
    raise ValueError(
        f"model: the logits with the merged adapter differ from those with the unmerged one "
        f"({merged.describe(off)}). {mend}"
    )


def check_batches(model: Any, head: FoundHead, probe: Probe) -> LoadChecks:
    """Compare texts alone and in batches; find the padding side that leaves them as they are.

    Returns
    -------
    LoadChecks
        Without `merge_off`.

    Raises
    ------
    ValueError
        Another text in the batch, or padding on either side, changes the logits by more than the
        precision explains.
    """
    alone = Yardstick.of(model, head, probe)
    together = run_head(model, head, probe.inputs(model, probe.same_length, "right"))[1]
    batch_off = alone.off(together[:1], slice(_LONG, _LONG + 1))
    more = "" if alone.precision == "float32" else " Try dtype=torch.float32."
    if batch_off > alone.relative:
        raise ValueError(
            f"model: {type(model).__name__} gives a text different logits when other texts of the "
            f"same length are in its batch ({alone.describe(batch_off)}): a layer mixes the rows "
            f"of a batch, so a row's features are not its own.{more}"
        )
    sides: tuple[PaddingSide, ...] = ("right", "left")
    for side in sides:
        padded = run_head(model, head, probe.inputs(model, probe.everything, side))[1]
        padding_off = alone.off(padded[: _LONG + 1])
        if padding_off <= alone.relative:
            return LoadChecks(side, alone.relative, batch_off, padding_off)
    raise ValueError(
        f"model: {type(model).__name__} gives a text different logits when it is padded, on either "
        f"side ({alone.describe(padding_off)}): its answers depend on the batch. Check "
        f"config.pad_token_id ({probe.pad_id}).{more}"
    )


def head_eps(layer: Any) -> float:
    """Return the machine epsilon of the precision in which a linear layer runs."""
    weight = layer.weight
    if weight.dtype == torch.float32 and weight.is_cuda and _tf32_allowed():
        return 2.0**-10
    return float(torch.finfo(weight.dtype).eps)


def _tf32_allowed() -> bool:
    # torch 2.9 brought another setting; where that was used, reading the older one raises.
    precision = getattr(torch.backends.cuda.matmul, "fp32_precision", None)
    if precision is None:
        return torch.get_float32_matmul_precision() != "highest"
    return precision in ("tf32", "bf16")
