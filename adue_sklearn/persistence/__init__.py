"""A fitted estimator as a folder of safetensors and JSON; no pickle, nothing is executed."""

from adue_sklearn._utils.model_facts import ModelFacts, check_same_model
from adue_sklearn.exceptions import ModelMismatchError
from adue_sklearn.persistence.heads import (
    CHOICE_ROWS,
    FIT_ROWS,
    FittedHead,
    check_target,
    load_head,
    save_head,
)
from adue_sklearn.persistence.sidekicks import (
    load_sidekick,
    save_sidekick,
    sidekick_sha256,
    sidekick_view,
)
from adue_sklearn.persistence.state import as_json, check_saveable, described, essence
from adue_sklearn.persistence.views import sidekicks_in, views_in

__all__ = [
    "CHOICE_ROWS",
    "FIT_ROWS",
    "FittedHead",
    "ModelFacts",
    "ModelMismatchError",
    "as_json",
    "check_same_model",
    "check_saveable",
    "check_target",
    "described",
    "essence",
    "load_head",
    "load_sidekick",
    "save_head",
    "save_sidekick",
    "sidekick_sha256",
    "sidekick_view",
    "sidekicks_in",
    "views_in",
]
