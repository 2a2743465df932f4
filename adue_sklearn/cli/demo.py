"""``adue demo``: the whole way on a case that ships with the package."""

from __future__ import annotations

from adue_sklearn._utils.tables import Column, Table
from adue_sklearn.cli.console import console, show

SENTENCES = (
    "A warm, generous film that earns every one of its tears.",
    "Two hours of my life that nobody will ever give back.",
    "It never quite decides whether it wants to scare us or to make us laugh.",
    "You will not find a less boring film about tax law this year.",
    "The trailer promised a masterpiece, and well, the trailer was very good.",
    "Hardly the disaster everyone expected.",
)


def demo() -> None:
    """Fit and compare on a shipped case, then score a few sentences with the real model."""
    from adue_sklearn._utils.head import Head
    from adue_sklearn.adue import AdUESearchCV
    from adue_sklearn.cli.tables import cross_validated_table, fresh_rows_table, score_rows
    from adue_sklearn.datasets import (
        load_movie_sentiment,
        minilm_path,
        movie_sentiment_adapter_path,
    )
    from adue_sklearn.features import compute_features, load_classifier
    from adue_sklearn.model_selection import error_stratified_folds
    from adue_sklearn.scorers import MahalanobisScorer

    data = load_movie_sentiment()
    train, calibration, test = (
        (split.features.astype("float32"), split.labels)
        for split in (data.train, data.calibration, data.test)
    )
    head = Head.of(data.init_W, data.init_b)
    console.print(
        "A LoRA-tuned MiniLM says whether a sentence about a film is positive or negative. When "
        "is it wrong?\n",
        highlight=False,
    )
    folds = error_stratified_folds(*calibration, head)
    with console.status("Searching"):
        search = AdUESearchCV(cv=folds).fit(*calibration, head)
    show(cross_validated_table(search, *calibration, head, train=train))
    adue = search.best_estimator_
    distance = MahalanobisScorer().fit(*train, head)
    console.print()
    show(fresh_rows_table({"Mahalanobis": distance, "AdUE": adue}, *test))

    classifier = load_classifier(
        movie_sentiment_adapter_path(),
        base_model=minilm_path(),
        device="cpu",
        max_length=64,
        classes=data.classes,
    )
    features, _ = compute_features(classifier, SENTENCES)
    columns = [Column("sentence", of_numbers=False)]
    columns += map(Column, ("label", "probability", "uncertainty"))
    rows = [
        [sentence, row["label"], f"{row['probability']:.3f}", f"{row['uncertainty']:.3f}"]
        for sentence, row in zip(SENTENCES, score_rows(adue, features, data.classes), strict=True)
    ]
    show(Table("\nA few new sentences", columns, rows))
