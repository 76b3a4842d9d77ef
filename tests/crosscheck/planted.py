"""The library of planted errors: which error goes into which optimizer, and what a replay must find."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STEPS = 6


@dataclass(frozen=True)
class Planted:
    """A planted error, and what a replay must find."""

    rule: str
    fault: str
    options: Mapping[str, Any]
    step: int = 1  # the first step that shows it
    slot: str = "param"  # the first slot that shows it; the state comes before the parameter, which is computed from it
    since: int = 1
    only: int | None = None
    tensor: str | None = None
    schedule: bool = True  # the learning rate falls at every step

    def __str__(self) -> str:
        extra = "" if self.since == 1 else f", from step {self.since}"
        return f"{self.rule}: {self.fault}{extra}{'' if self.only is None else ', one tensor'}"


PLAIN = {"weight_decay": 0.05}
MOMENTUM = {"momentum": 0.9}
DECAYED = {"momentum": 0.9, "weight_decay": 0.05}
DAMPENED = {"momentum": 0.9, "dampening": 0.4}
NESTEROV = {"momentum": 0.9, "nesterov": True}
BUFFER = "momentum_buffer"


def sgd(fault: str, options: Mapping[str, Any], step: int = 1, slot: str = "param", **more: Any) -> Planted:
    return Planted("sgd", fault, options, step, slot, **more)


SGD = (
    sgd("lr 0.1 % off", MOMENTUM),
    sgd("lr one step late", MOMENTUM, 2),
    sgd("options of the first group", MOMENTUM, tensor="bias"),
    sgd("lr inside the buffer", MOMENTUM, 2, BUFFER),
    sgd("lr inside the buffer", NESTEROV, 2, BUFFER),
    sgd("buffer times lr", MOMENTUM, 1, BUFFER),
    sgd("buffer times lr", NESTEROV, 1, BUFFER),
    sgd("momentum 0.1 % off", MOMENTUM, 2, BUFFER),
    sgd("state rounded", MOMENTUM, 1, BUFFER),
    sgd("parameter rounded", MOMENTUM),
    sgd("bit flip", MOMENTUM, 5, since=5, only=1, tensor="bias"),
    sgd("stale gradient", {}, 2),
    sgd("stale gradient", MOMENTUM, 2, BUFFER),
    sgd("clipped by value", {}),
    sgd("clipped by norm", MOMENTUM, 1, BUFFER),
    sgd("unscaled twice", {}),
    sgd("unscaled twice", {**MOMENTUM, "scaled": True}, 1, BUFFER),
    sgd("not unscaled", {**MOMENTUM, "scaled": True}, 1, BUFFER),
    sgd("nesterov missing", NESTEROV),
    sgd("nesterov twice", NESTEROV),
    sgd("nesterov with the old buffer", NESTEROV),
    sgd("nesterov unasked", MOMENTUM),
    sgd("dampening missing", DAMPENED, 2, BUFFER),
    sgd("buffer from zero", DAMPENED, 1, BUFFER),
    sgd("dampening on the buffer", DAMPENED, 2, BUFFER),
    sgd("dampening on both", DAMPENED, 2, BUFFER),
    sgd("dampening is the momentum", DAMPENED, 2, BUFFER),
    sgd("decay missing", PLAIN),
    sgd("decay missing", DECAYED, 1, BUFFER),
    sgd("decay decoupled", DECAYED, 1, BUFFER),
    sgd("decay on new parameters", PLAIN),
    sgd("decay on new parameters", DECAYED, 1, BUFFER),
    sgd("decay twice", DECAYED, 1, BUFFER),
    sgd("decay times lr", DECAYED, 1, BUFFER),
    sgd("decay after momentum", DECAYED, 1, BUFFER),
    sgd("maximize ignored", {"maximize": True}),
    sgd("maximize ignored", {**MOMENTUM, "maximize": True}, 1, BUFFER),
    sgd("maximize after decay", {**DECAYED, "maximize": True}, 1, BUFFER),
    sgd("maximize by negative lr", {**PLAIN, "maximize": True}),
    sgd("maximize by negative lr", {**MOMENTUM, "maximize": True}, 1, BUFFER),
    sgd("lr 0.1 % off", MOMENTUM, 4, since=4),
    sgd("dampening on the buffer", DAMPENED, 4, BUFFER, since=4),
    sgd("lr 0.1 % off", MOMENTUM, 1, only=0, tensor="weight"),
    sgd("nesterov missing", NESTEROV, 4, since=4, only=1, tensor="bias"),
)

COUPLED = {"weight_decay": 0.05}
AMSGRAD = {"amsgrad": True}
UP = {"maximize": True, "weight_decay": 0.05}
M, V, VMAX = "exp_avg", "exp_avg_sq", "max_exp_avg_sq"


def adam(fault: str, options: Mapping[str, Any], step: int = 1, slot: str = "param", **more: Any) -> Planted:
    return Planted("adam", fault, options, step, slot, **more)


def adamw(fault: str, options: Mapping[str, Any], step: int = 1, slot: str = "param", **more: Any) -> Planted:
    return Planted("adamw", fault, {"decoupled_weight_decay": True, **options}, step, slot, **more)


ADAM = (
    adam("lr 0.1 % off", {}),
    adam("lr one step late", {}, 2),
    adam("eps in the root", {}),
    adam("eps squared in the root", {}),
    adam("eps before the correction", {}),
    adam("eps missing", {}),
    adam("eps 1 % off", {}),
    adam("first correction missing", {}),
    adam("first correction missing", AMSGRAD),
    adam("second correction missing", {}),
    adam("both corrections missing", {}),
    adam("root of the correction missing", {}),
    adam("beta2 off in the correction", {}),
    adam("betas swapped", {}, 1, M),
    adam("beta1 0.1 % off", {}, 1, M),
    adam("beta1 1 % off", {}, 1, M),
    adam("beta2 0.1 % off", {}, 1, V),
    adam("beta2 1 % off", {}, 1, V),
    adam("1 - beta1 missing", {}, 1, M),
    adam("1 - beta2 missing", {}, 1, V),
    adam("second moment of |g|", {}, 1, V),
    adam("step one ahead", {}),
    adam("step one behind", {}, 2),
    adam("step counted twice", {}, 1, "step"),
    adam("step not counted", {}, 1, "step"),
    adam("one counter for all", {}, 1, "step", tensor="bias"),
    adam("state rounded", {}, 1, M),
    adam("second moment rounded", {}, 1, V),
    adam("parameter rounded", {}),
    adam("bit flip", {}, 5, since=5, only=1, tensor="bias"),
    adam("stale gradient", {}, 2, M),
    adam("clipped by value", {}, 1, M),
    adam("clipped by norm", {}, 1, M),
    adam("unscaled twice", {}, 1, M),
    adam("unscaled twice", {"scaled": True}, 1, M),
    adam("not unscaled", {"scaled": True}, 1, M),
    adam("amsgrad corrects first", AMSGRAD, 1, VMAX),
    adam("amsgrad keeps the last", AMSGRAD, 2, VMAX),
    adam("amsgrad one step late", AMSGRAD, 1, VMAX),
    adam("amsgrad unused", AMSGRAD, 2),
    adam("decay of the other kind", COUPLED, 1, M),
    adam("decay missing", COUPLED, 1, M),
    adam("decay twice", COUPLED, 1, M),
    adam("decay times lr", COUPLED, 1, M),
    adam("decay after moments", COUPLED, 1, M),
    adam("maximize ignored", {"maximize": True}, 1, M),
    adam("maximize after decay", UP, 1, M),
    adamw("decay of the other kind", COUPLED, 1, M),
    adamw("decay missing", COUPLED),
    adamw("decay twice", COUPLED),
    adamw("decay not times lr", COUPLED),
    adamw("decay times lr", {**COUPLED, "lr": 0.1}),
    adamw("decay on new parameters", COUPLED),
    adamw("maximize ignored", UP, 1, M),
    adamw("maximize flips decay", UP),
    adamw("lr one step late", COUPLED, 2),
    adam("eps in the root", {}, 4, since=4),
    adam("beta2 0.1 % off", {}, 4, V, since=4),
    adam("first correction missing", {}, 1, only=2, tensor="gain"),
    adamw("decay missing", COUPLED, 4, since=4, only=1, tensor="bias"),
)

PLANTED = (*SGD, *ADAM)

# Float64 shows errors that float32 rounds away.
FINE = (
    sgd("lr rounded", MOMENTUM),
    sgd("lr inside the buffer", MOMENTUM, 2, BUFFER),
    sgd("state rounded", MOMENTUM, 1, BUFFER),
    sgd("nesterov missing", {**NESTEROV, "lr": 1e-9}),
    sgd("decay on new parameters", {**PLAIN, "lr": 1e-5}),
    adam("lr rounded", {}),
    adam("eps before the correction", {"eps": 1e-12}),
    adam("step one behind", {}, 2),
    adam("beta2 off in the correction", {"lr": 1e-9}),
    adam("amsgrad unused", {**AMSGRAD, "lr": 1e-9}, 2),
    adam("decay times lr", {"weight_decay": 1e-9}, 1, M),
    adamw("decay missing", {"weight_decay": 1e-5, "lr": 1e-5}),
    adamw("decay on new parameters", {**COUPLED, "lr": 1e-5}),
    adamw("decay missing", {**COUPLED, "lr": 1e-6}, 4, since=4, only=1, tensor="bias"),
)
# bfloat16 keeps 8 bits, so FAIL roundoffs are an eighth of the number itself and only gross errors show.
COARSE = (
    sgd("nesterov missing", {**NESTEROV, "lr": 1.0}),
    sgd("dampening missing", DAMPENED, 2, BUFFER),
    sgd("dampening on the buffer", DAMPENED, 4, BUFFER, since=4),
    sgd("buffer times lr", MOMENTUM, 1, BUFFER),
    sgd("buffer from zero", DAMPENED, 1, BUFFER),
    sgd("stale gradient", MOMENTUM, 2, BUFFER),
    sgd("maximize ignored", {"maximize": True}),
    sgd("decay missing", DECAYED, 1, BUFFER),
    adam("betas swapped", {}, 1, M),
    adam("beta2 0.1 % off", {}, 1, V),
    adam("1 - beta1 missing", {}, 1, M),
    adam("eps in the root", {}),
    adam("both corrections missing", {}),
    adam("step counted twice", {}, 1, "step"),
    adam("amsgrad corrects first", AMSGRAD, 1, VMAX),
    adam("maximize after decay", UP, 1, M),
    adamw("decay of the other kind", COUPLED, 1, M),
    adam("first correction missing", {}, 1, only=2, tensor="gain"),
)

RIGHT = (
    sgd("", {}),
    sgd("", PLAIN),
    sgd("", MOMENTUM),
    sgd("", {**DAMPENED, **DECAYED, "maximize": True}),
    sgd("", {**NESTEROV, "scaled": True}),
    adam("", {}),
    adam("", {**AMSGRAD, "maximize": True}),
    adam("", {**COUPLED, "scaled": True}),
    adamw("", UP),
)
# These must stay silent: errors in an option that is off or does not change, errors that begin after the last step, and other
# ways to write the same formula.
SILENT = (
    sgd("lr one step late", MOMENTUM, schedule=False),
    sgd("lr inside the buffer", MOMENTUM, schedule=False),
    sgd("lr 0.1 % off", MOMENTUM, since=STEPS + 1),
    sgd("momentum 0.1 % off", {}),
    sgd("state rounded", {}),
    sgd("buffer times lr", {}),
    sgd("nesterov missing", MOMENTUM),
    sgd("nesterov missing", {"nesterov": True}),
    sgd("nesterov twice", {"nesterov": True}),
    sgd("nesterov with the old buffer", {"nesterov": True}),
    sgd("nesterov rearranged", NESTEROV),
    sgd("buffer from zero", MOMENTUM),
    sgd("buffer allocated beforehand", MOMENTUM),
    sgd("dampening missing", MOMENTUM),
    sgd("dampening on both", MOMENTUM),
    sgd("dampening on the buffer", {"dampening": 0.4}),
    sgd("decay decoupled", MOMENTUM),
    sgd("decay on new parameters", MOMENTUM),
    sgd("decay after momentum", PLAIN),
    sgd("maximize ignored", MOMENTUM),
    sgd("maximize after decay", {**MOMENTUM, "maximize": True}),
    sgd("maximize by negative lr", {"maximize": True}),
    adam("lr one step late", {}, schedule=False),
    adam("correction in the root", {}),
    adam("betas swapped", {"betas": (0.95, 0.95)}),
    adam("amsgrad corrects first", {}),
    adam("amsgrad unused", {}),
    adam("decay of the other kind", {}),
    adam("decay after moments", {}),
    adam("maximize ignored", COUPLED),
    adam("maximize after decay", {"maximize": True}),
    adamw("decay beside the step", COUPLED),
    adamw("decay not times lr", {}),
    adamw("maximize flips decay", COUPLED),
)
