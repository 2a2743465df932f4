from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from adue_sklearn.exceptions import FeatureMismatchError, HeadError
from adue_sklearn.features._model.finding import find_head, run_head
from adue_sklearn.features._model.heads import FoundHead, Layer, check_batch

N_FEATURES, N_CLASSES = 6, 3
INPUTS = {"x": torch.linspace(-1, 1, 2 * 5 * N_FEATURES).view(2, 5, N_FEATURES)}


class Toy(nn.Module):
    """A classifier whose way from the last linear layer to the logits is a parameter."""

    def __init__(self, pool, after=lambda logits: logits, **layers):
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(num_labels=N_CLASSES)
        self.pool, self.after = pool, after
        self.decoy = nn.Linear(N_FEATURES, N_CLASSES)
        self.unused = nn.Linear(N_FEATURES, N_CLASSES)
        self.head = nn.Linear(N_FEATURES, N_CLASSES, **layers)

    def forward(self, x, return_dict=True):
        self.decoy(x)
        return SimpleNamespace(logits=self.after(self.pool(self.head, x)))


def first_token(head, x):
    return head(x[:, 0])


def middle_token_afterwards(head, x):
    return head(x)[:, 2]


@pytest.mark.parametrize("pool", [first_token, middle_token_afterwards])
@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_whose_output_is_the_logits_is_found_among_decoys(pool, bias):
    model = Toy(pool, bias=bias)
    head = find_head(model, INPUTS)
    assert head.module == "head"
    assert head.per_token == (pool is middle_token_afterwards)
    np.testing.assert_array_equal(head.init_W, model.head.weight.detach())
    assert (head.init_b is not None) == bias
    features, logits = run_head(model, head, INPUTS)
    position = 2 if head.per_token else 0
    np.testing.assert_array_equal(features, INPUTS["x"][:, position])
    check_batch(head, features, logits, np.arange(2), np.finfo(np.float32).eps)


@pytest.mark.parametrize("pool", [first_token, middle_token_afterwards])
def test_logits_that_the_model_up_casts_are_recognised(pool):
    model = Toy(pool, after=lambda logits: logits.float()).bfloat16()
    head = find_head(model, {"x": INPUTS["x"].bfloat16()})
    assert head.module == "head"
    assert head.init_W.dtype == np.float32


@pytest.mark.parametrize(
    "after", [lambda z: 30 * torch.tanh(z / 30), lambda z: z.log_softmax(-1), lambda z: 2 * z]
)
def test_a_model_that_changes_its_logits_afterwards_is_refused(after):
    with pytest.raises(HeadError, match=r"'decoy' gives .* 'unused' was not called; 'head' gives"):
        find_head(Toy(first_token, after=after), INPUTS)


def test_a_model_without_a_last_linear_layer_is_refused():
    model = Toy(first_token)
    model.head = nn.Bilinear(N_FEATURES, N_FEATURES, N_CLASSES)
    model.pool = lambda head, x: head(x[:, 0], x[:, 1])
    del model.decoy, model.unused
    model.decoy = nn.Identity()
    with pytest.raises(HeadError, match=f"no nn.Linear with {N_CLASSES} outputs"):
        find_head(model, INPUTS)


def test_a_head_that_stops_giving_the_logits_is_noticed():
    model = Toy(first_token)
    head = find_head(model, INPUTS)
    model.after = lambda logits: logits + 1
    with pytest.raises(FeatureMismatchError, match="'head'"):
        run_head(model, head, INPUTS)
    per_token = Toy(middle_token_afterwards)
    head = find_head(per_token, INPUTS)
    per_token.after = lambda logits: logits + 1
    with pytest.raises(FeatureMismatchError, match=r"No position of 'head'.*rows \[0, 1\]"):
        run_head(per_token, head, INPUTS)
    model.pool = lambda _head, x: x[:, 0, :N_CLASSES]
    with pytest.raises(FeatureMismatchError, match="no longer calls"):
        run_head(model, head, INPUTS)


def test_a_layer_called_twice_counts_with_its_last_call():
    model = Toy(lambda head, x: (head(x[:, 1]), head(x[:, 0]))[1])
    features, _ = run_head(model, find_head(model, INPUTS), INPUTS)
    np.testing.assert_array_equal(features, INPUTS["x"][:, 0])


def test_no_hook_stays_behind_not_even_after_a_failure():
    model = Toy(first_token, after=lambda logits: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        find_head(model, INPUTS)
    assert not any(module._forward_hooks for module in model.modules())


@given(
    seed=st.integers(0, 2**31),
    d=st.sampled_from([1, 7, 384, 2048]),
    scale=st.sampled_from([1e-3, 1.0, 300.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_honest_rounding_passes_and_a_percent_in_the_head_does_not(seed, d, scale, dtype):
    generator = torch.Generator().manual_seed(seed)
    h = (scale * torch.randn(16, d, generator=generator)).to(dtype)
    W = (torch.randn(4, d, generator=generator) / d**0.5).to(dtype)
    b = torch.randn(4, generator=generator).to(dtype)
    logits = (h @ W.T + b).float().numpy()
    features, rows = h.float().numpy(), np.arange(16)
    eps = torch.finfo(dtype).eps
    head = FoundHead.of_layers([Layer("head", W.float().numpy(), b.float().numpy())])
    check_batch(head, features, logits, rows, eps)
    wrong = 1.01 if dtype == torch.float32 else 1.3
    off = FoundHead.of_layers([Layer("head", head.init_W * wrong, head.init_b * wrong)])
    with pytest.raises(FeatureMismatchError, match="layer 'head', rows"):
        check_batch(off, features, logits, rows, eps)
