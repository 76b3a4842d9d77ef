"""`python -m tests.bench.page REPORT.json` writes the tables and the plot of docs/performance.md from a report of the bench."""

import sys
from pathlib import Path
from statistics import median

import matplotlib as mpl
from matplotlib import pyplot

from distrib.networks.article import article
from distrib.networks.speednet import Speednet
from tests.bench import report, scaling
from tests.bench.entrants import RECORDED, TWINSTEP, TWO_RANKS
from tests.bench.report import Report
from tests.bench.table import fastest_first, table, walls
from tests.documents import PERFORMANCE, write_section
from tests.gpu.page import KEPT
from tests.gpu.report import read as read_gpu_report

PLOT = PERFORMANCE.with_name("loops.svg")
BLUE, GRAY = "#0072B2", "#999999"
_RANKS = (2, 4, 8, 64)


def scaling_table() -> list[str]:
    """Return the lines of a table in Markdown: what the model of the all-reduce expects of N GPUs."""
    lines = [
        f"| training | link | {' | '.join(f'{ranks} GPUs' for ranks in _RANKS)} |",
        f"|---|---|{'---|' * len(_RANKS)}",
    ]
    for work in _workloads():
        for link in (scaling.NVLINK, scaling.ETHERNET):
            shares = " | ".join(f"{scaling.efficiency(work, link, ranks):.2f}" for ranks in _RANKS)
            lines.append(f"| {work.name}, {work.step * 1e3:.1f} ms a step | {link.name} | {shares} |")
    return lines


def _workloads() -> list[scaling.Workload]:
    """Return what was measured on one GPU, by the kept report of the GPU kit."""
    kept = read_gpu_report(KEPT)
    assert kept is not None
    rows = kept.parts["trainer"].rows
    cases = (("sgd-onecycle, bf16", 128, article()), ("speed, bf16, seed 2", 500, Speednet()))
    workloads: list[scaling.Workload] = []
    for name, batch, network in cases:
        rate = rows[name].figures["rate"]
        assert isinstance(rate, float)
        gradients = sum(parameter.nbytes for parameter in network.parameters() if parameter.requires_grad)
        workloads.append(scaling.Workload(name, batch / rate, gradients))
    return workloads


def draw(found: Report, file: Path) -> None:
    """Draw the loops' images a second as bars, the fastest at the top."""
    mpl.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "1"})
    names = list(fastest_first(found))[::-1]
    rates = [found.batch * found.steps / median(walls(found, name)) for name in names]
    figure, axes = pyplot.subplots(figsize=(9.6, 0.32 * len(names) + 0.9), layout="constrained")
    colors = [BLUE if name in (TWINSTEP, RECORDED, TWO_RANKS) else GRAY for name in names]
    bars = axes.barh(names, rates, color=colors)
    axes.bar_label(bars, labels=[f"{rate:,.0f}" for rate in rates], padding=4)
    axes.set(xlabel="images a second, median", title="The same network, batch, optimizer and augmentation on two cores")
    axes.tick_params(axis="y", length=0)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def section(found: Report) -> str:
    """Return what the page says of a report."""
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    head = (
        f"On {found.cores} cores of an {found.processor}, Python {found.python}, {versions}; an epoch has {found.steps} "
        f"batches of {found.batch}."
    )
    return "\n".join([head, "", f"![Images a second of each loop]({PLOT.name})", "", *table(found), ""])


def main(path: Path) -> None:
    found = report.read(path)
    write_section(PERFORMANCE, "loops", section(found))
    write_section(PERFORMANCE, "scaling", "\n".join([*scaling_table(), ""]))
    draw(found, PLOT)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
