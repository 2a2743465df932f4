import pytest

from tests.lora_cases import FAMILIES


@pytest.fixture(params=[(family, c) for family in FAMILIES for c in (2, 4)], ids=str)
def case(request, make_saved_case):
    return make_saved_case(*request.param)


@pytest.fixture
def roberta(make_saved_case):
    return make_saved_case("roberta", 2)


@pytest.fixture
def llama(make_saved_case):
    return make_saved_case("llama", 4)
