"""Every architecture: features and head give the logits of the unmerged model, text by text."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from adue_sklearn.exceptions import HeadError
from adue_sklearn.features import compute_features, load_classifier
from tests.lora_cases import (
    ARCHITECTURES,
    head_logits,
    make_config,
    make_texts,
    make_tokenizer,
    one_by_one,
)

TEXTS = make_texts(12)


@pytest.mark.parametrize(
    ("precision", "side"),
    [(torch.float32, "left"), (torch.float32, "right"), (torch.bfloat16, "right")],
    ids=str,
)
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_features_times_head_are_the_logits_of_the_unmerged_model(
    family, precision, side, make_saved_case
):
    case = make_saved_case(family, 2)
    tokenizer = copy.deepcopy(case.tokenizer)
    tokenizer.padding_side = side
    classifier = load_classifier(case.adapter, tokenizer=tokenizer, device="cpu", dtype=precision)
    features, logits = compute_features(classifier, TEXTS, batch_tokens=100)
    expected = case.logits_one_by_one(TEXTS)
    assert np.ptp(expected, axis=0).min() > 0.05  # the texts do differ
    # bfloat16 has 8 bits: a percent or two of the largest logits after two layers.
    tolerance = 2e-5 if precision == torch.float32 else 0.05 * np.abs(expected).max()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)
    rebuilt = head_logits(features, classifier.head)
    np.testing.assert_allclose(rebuilt, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_an_adapter_moves_the_logits_of_every_test_model(family, make_saved_case):
    case = make_saved_case(family, 2)
    with_adapter = case.logits_one_by_one(TEXTS)
    with case.live.disable_adapter():
        without = one_by_one(case.live, case.tokenizer, TEXTS)
    assert np.abs(with_adapter - without).max() > 0.1  # a lost merge cannot pass unseen


class CosineHead(nn.Module):
    """Logits as cosines with one prototype a class: no linear layer gives them."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(n_classes, n_features))

    def forward(self, hidden):
        return nn.functional.normalize(hidden, dim=-1) @ nn.functional.normalize(self.prototypes).T


def test_a_model_whose_head_has_no_last_linear_layer_is_refused():
    model = AutoModelForSequenceClassification.from_config(make_config("bert", 3))
    model.classifier = CosineHead(16, 3)
    with pytest.raises(HeadError, match=r"no last linear layer.*no nn\.Linear with 3 outputs"):
        load_classifier(model, tokenizer=make_tokenizer())


def test_a_model_that_scales_its_logits_after_the_last_layer_is_refused():
    model = AutoModelForSequenceClassification.from_config(make_config("distilbert", 3))
    model.register_forward_hook(
        lambda module, args, output: type(output)(logits=output.logits / output.logits.norm())
    )
    with pytest.raises(HeadError, match=r"'classifier' gives \[2, 3\], which is not the logits"):
        load_classifier(model, tokenizer=make_tokenizer())
