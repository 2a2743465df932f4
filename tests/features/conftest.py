import pytest

from adue_sklearn.features import load_classifier
from tests.lora_cases import FAMILIES


@pytest.fixture(params=zip(FAMILIES, (2, 4, 4, 2), strict=True), ids=str)
def case(request, make_saved_case):
    return make_saved_case(*request.param)


@pytest.fixture
def roberta(make_saved_case):
    return make_saved_case("roberta", 2)


@pytest.fixture(scope="session")
def loaded(make_saved_case):
    """Hold the RoBERTa, loaded once, for tests that leave it as it is."""
    return load_classifier(make_saved_case("roberta", 2).adapter, classes=["no", "yes"])


@pytest.fixture
def llama(make_saved_case):
    return make_saved_case("llama", 4)
