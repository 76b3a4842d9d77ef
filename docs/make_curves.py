"""Draws docs/curves.svg from the metrics.jsonl of three runs. The arguments are the folders of the runs.

python docs/make_curves.py SGD_1_PROCESS SGD_2_PROCESSES ADAM_1_PROCESS
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot

BLUE, ORANGE, GREEN = "#2563eb", "#f97316", "#16a34a"


def records(folder: str, kind: str) -> list[dict[str, Any]]:
    """Return the run's records of this kind, "step" or "epoch"."""
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def main(sgd_one: str, sgd_two: str, adam_one: str) -> None:
    """Draw the loss by step on the left and the accuracy by epoch on the right."""
    mpl.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "1"})
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.6, 3.4), layout="constrained")
    for folder, color, width, label in ((sgd_one, BLUE, 2.6, "1 process"), (sgd_two, ORANGE, 1.0, "2 processes")):
        steps = records(folder, "step")[:200]
        left.plot([s["step"] for s in steps], [s["loss"] for s in steps], color=color, linewidth=width, label=label)
    left.set(title="The same steps, whoever takes them (SGD)", xlabel="step", ylabel="global loss")
    left.legend(frameon=False)
    for folder, color, label in ((sgd_one, BLUE, "fused SGD"), (adam_one, GREEN, "fused Adam")):
        epochs = records(folder, "epoch")
        accuracy = [100 * e["test_accuracy"] for e in epochs]
        name = f"{label}, {accuracy[-1]:.1f} %"
        right.plot([e["epoch"] for e in epochs], accuracy, color=color, marker="o", label=name)
    right.set(title="CIFAR-10 (JPEG q75), one-cycle", xlabel="epoch", ylabel="test accuracy in %")
    right.legend(frameon=False, loc="lower right")
    figure.savefig(Path(__file__).parent / "curves.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
