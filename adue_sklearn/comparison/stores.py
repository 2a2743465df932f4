"""Feature stores as what estimators take: features, with the views of the rows where there are any.

Views of features, such as layers, say something only after label probes were fitted on the rows
that the classifier was trained on. Without training rows that have such a view it is left out,
with a warning. Rows to judge must have all views.
"""

from __future__ import annotations

from adue_sklearn._utils.arrays import Features
from adue_sklearn._utils.validation import warn
from adue_sklearn._utils.views import Views
from adue_sklearn.base import UncertaintyEstimator
from adue_sklearn.exceptions import StoreError
from adue_sklearn.features import FeatureStore
from adue_sklearn.features._store.same import check_same_views, extract_options
from adue_sklearn.scorers.witnesses import views_read_by, witnesses_of


def rows_of_store(store: FeatureStore) -> Features:
    """Return what estimators take of a store: its views, or the features if it has none."""
    return store.views() if store.view_facts else store.features


def rows_with_training(
    store: FeatureStore, train: FeatureStore | None
) -> tuple[Features, Features | None]:
    """Return the rows of a store, and those that its classifier was trained on.

    Raises
    ------
    StoreError
        If both have a view that was made in another way.

    Warns
    -----
    UserWarning
        If views need label probes and there are no training rows with them; they are left out.
    """
    X = rows_of_store(store)
    if not isinstance(X, Views):
        return X, None if train is None else train.features
    wanted = _views_of_features(X)
    taught = [] if train is None else [name for name in wanted if name in train.view_facts]
    lacking = [name for name in wanted if name not in taught]
    if lacking:
        where = "there are no training rows"
        mend = "pass a store of them (--train-store)"
        if train is not None:
            where = f"'{train.path}' lacks them"
            mend = f"extract '{train.path}' with {extract_options(lacking)}"
        warn(
            f"The views {', '.join(lacking)} of '{store.path}' are left out: they need label "
            f"probes, which are fitted on training rows, and {where}. To use them, {mend}."
        )
    kept = [name for name in X.names if name not in lacking]
    X = store.views(*kept) if kept else store.features
    if train is None:
        return X, None
    check_same_views(store.path, store.view_facts, train.path, train.view_facts)
    return X, train.views(*taught) if taught else train.features


def rows_to_judge(store: FeatureStore, X: Features, test: FeatureStore) -> Features:
    """Return the rows of a test store, with the views of those that scores are fitted on.

    Raises
    ------
    StoreError
        If it lacks one, or has one that was made in another way.
    """
    if not isinstance(X, Views):
        return test.features
    lacking = [name for name in X.names if name not in test.view_facts]
    if lacking:
        raise StoreError(
            f"'{test.path}' lacks the views {', '.join(lacking)}, which '{store.path}' has. "
            f"Extract '{test.path}' with {extract_options(lacking)} too."
        )
    check_same_views(store.path, store.view_facts, test.path, test.view_facts)
    return test.views(*X.names)


def rows_for(
    estimator: UncertaintyEstimator, store: FeatureStore, *, fallback: bool = False
) -> Features:
    """Return the rows of a store with the views that a fitted score reads.

    Raises
    ------
    StoreError
        If the store lacks one, without ``fallback``.
    """
    wanted = views_read_by(estimator)
    lacking = [name for name in wanted if name not in store.view_facts]
    if lacking and not fallback:
        raise StoreError(
            f"'{store.path}' lacks the views {', '.join(lacking)}, which the head was fitted with. "
            f"Extract it with {extract_options(lacking)}, or pass --fallback to score its rows by "
            "softmax response."
        )
    there = [name for name in wanted if name not in lacking]
    return store.views(*there) if there else store.features


def _views_of_features(X: Views) -> list[str]:
    """Return the names of the views that need a label probe."""
    return [
        name
        for _, witness in witnesses_of(X)
        if witness.lacks_probe(X)
        for name in witness.view_names(X)
    ]
