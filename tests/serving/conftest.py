import pytest

from tests.serving_cases import fitted_head, loaded


@pytest.fixture(scope="session")
def roberta(make_saved_case):
    """Hold a RoBERTa on disk, loaded, and a fitted AdUE head, for tests that leave all as it is."""
    case = make_saved_case("roberta", 2)
    classifier = loaded(case)
    return case, classifier, fitted_head(classifier)
