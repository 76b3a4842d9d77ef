"""A cluster without JAX can train and record, and a laptop without torch can replay."""

import pytest

from tests.support import JAX, TORCH, run_without

_IMPORT = """
import importlib, pkgutil
for name in {modules!r}:
    module = importlib.import_module(name)
    if {whole!r}:
        for inner in pkgutil.walk_packages(getattr(module, "__path__", []), name + "."):
            importlib.import_module(inner.name)
"""


@pytest.mark.parametrize(
    ("modules", "packages", "whole"),
    [
        (["distrib"], (*JAX, "twinstep"), True),
        (["crosscheck"], (*JAX, *TORCH, "twinstep"), False),
        (["crosscheck.recorder", "crosscheck.trace.writer"], (*JAX, "distrib"), True),
        (["crosscheck.integrations.accelerate"], (*JAX, "distrib"), False),
        (
            [
                "crosscheck.checks",
                "crosscheck.commands",
                "crosscheck.criterion",
                "crosscheck.diagnosis",
                "crosscheck.follower",
                "crosscheck.page",
                "crosscheck.report",
                "crosscheck.rules",
                "crosscheck.twin",
                "crosscheck.replayer",
                "crosscheck.__main__",
            ],
            (*TORCH, "distrib", "twinstep"),
            True,
        ),
    ],
    ids=["trainer", "package", "recorder", "integrations", "replayer"],
)
def test_imports_without(modules: list[str], packages: tuple[str, ...], whole: bool) -> None:
    result = run_without(packages, _IMPORT.format(modules=modules, whole=whole))
    assert result.returncode == 0, result.stderr
