"""What a report should say of each drawn mistake: the sentences that are true of it, as regular expressions."""

import re
from collections.abc import Mapping

import torch

from tests.crosscheck.generated.mistaken import HALVES
from tests.crosscheck.generated.runs import Case
from tests.crosscheck.generated.settings import Setting

_MISSING_DECAY = r"weight decay is missing|weight_decay is without effect"
_FLIPPED_DECAY = r"weight_decay acts as .* x -1\.0"
_WRONG_SIGN = r"the gradient is used with the wrong sign"
_STILL = r"the parameter does not move"
_COUNT = r"step went from .*; every applied step adds 1"
_AROUND = {"between": r"\w+ was changed between steps", "start": r".* before the first step"}
"""What is said of a mistake that is not in a step."""

_SENTENCES: Mapping[str, str] = {
    "rate one step late": r"lr is that of the step before",
    "moved twice": r"lr acts as .* x (2\.0|1\.99999)",
    "frozen": _STILL,
    "tensor frozen": _STILL,
    "decay constant": r"weight decay subtracts a constant",
    "decay at first only": _MISSING_DECAY,
    "decay missing": _MISSING_DECAY,
    "decay twice": r"weight decay is applied twice|weight_decay acts as .* x (2\.0|1\.99999)",
    "decay times lr": r"weight decay is multiplied by lr once too often",
    "decay not times lr": r"weight decay is not multiplied by lr",
    "decay on new parameters": r"weight decay is taken from the new parameters",
    "decay after momentum": r"weight decay is added after the momentum",
    "decay decoupled": r"weight decay is added after the momentum",
    "decay after moments": r"weight decay is decoupled instead of coupled",
    "decay of the other kind": r"weight decay is (decoupled|coupled) instead of (coupled|decoupled)",
    "maximize is off": _WRONG_SIGN,
    "maximize ignored": _WRONG_SIGN,
    "maximize after decay": _FLIPPED_DECAY,
    "maximize flips decay": _FLIPPED_DECAY,
    "nesterov is off": r"Nesterov's look-ahead is missing",
    "nesterov missing": r"Nesterov's look-ahead is missing",
    "nesterov with the old buffer": r"Nesterov's look-ahead is missing",  # g + mu b is momentum alone
    "nesterov unasked": r"Nesterov's look-ahead is there",
    "buffer times lr": r"the learning rate is inside the momentum buffer",
    "dampening missing": r"dampening is without effect|dampening acts as -?\d\.\d+e-\d+ ",
    "buffer from zero": r"dampening is applied to the first gradient",
    "dampening on both": r"momentum acts as",
    "dampening is the momentum": r"dampening acts as",
    "dampening on the buffer": r"momentum acts as .*, and dampening is without effect",
    "eps in the root": r"eps is inside the square root",
    "eps before the correction": r"eps is added before the bias correction",
    "eps missing": r"eps is without effect",
    "first correction missing": r"the bias correction of the first moment is missing",
    "second correction missing": r"the bias correction of the second moment is missing",
    "both corrections missing": r"both bias corrections are missing",
    "betas swapped": r"betas are swapped",
    "step one ahead": r"bias corrections are one step ahead",
    "step not counted": _COUNT,
    "count twice": _COUNT,
    "amsgrad corrects first": r"AMSGrad corrects the bias before it takes the maximum",
    "amsgrad unused": r"AMSGrad's maximum is kept but not used",
    "truncated": r".* truncated",
    "rounded at random": r".* rounded stochastically",
}
"""By the name of the mistake. What is not here is outside the catalogue, and no mistake should be named for it."""


def true_sentences(case: Case) -> re.Pattern[str] | None:
    """Return what matches the sentences that are true of the one mistake of a case; None if the catalogue has none."""
    (planted,) = case.mistakes
    setting = case.setting
    said = (
        _AROUND.get(planted.when)
        or _SENTENCES.get(planted.name)
        or _of_number(planted.wrong)
        or _by_setting(planted.name, setting)
    )
    return re.compile(said) if said else None


def _of_number(wrong: Mapping[str, float]) -> str:
    return "|".join(rf"{name} (acts as|is without effect)" for name in wrong)


def _by_setting(name: str, setting: Setting) -> str:
    """Return the sentences of a mistake that is in the catalogue in some settings only."""
    if name in ("gradient rounded", "param rounded", "change rounded", "state rounded") and setting.dtype not in HALVES:
        narrow = {torch.float64: "float32", torch.float32: "bfloat16"}[setting.dtype]
        return {
            "gradient rounded": rf"the gradient is rounded to {narrow}",
            "param rounded": rf"param is rounded to {narrow}",
            "change rounded": rf"the update is computed in {narrow}",
            "state rounded": rf"\w+ is rounded to {narrow}",
        }[name]
    sgd, momentum, decay = setting.rule == "sgd", setting.options.get("momentum"), setting.options["weight_decay"]
    if sgd and not momentum and not decay and (name.startswith("gradient x") or name == "unscaled twice"):
        return r"lr (acts as|is without effect)"
    if name == "maximize by negative lr":
        return _FLIPPED_DECAY if not momentum else rf"{_WRONG_SIGN}.*, and lr acts as .* x -1\.0"
    return ""
