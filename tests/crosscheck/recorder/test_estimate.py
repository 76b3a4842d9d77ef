"""What recording was said to cost is what it costs."""

from pathlib import Path
from typing import Any

import pytest
from torch.optim import SGD, Adam

from crosscheck import Recorder
from tests.crosscheck.recording import make_parameters, take_steps


@pytest.mark.parametrize("budget", ["light", "default", "full"])
def test_the_estimate_is_kept(budget: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosscheck.recorder.samples.sampler._FULL_EVERY", 5)
    parameters = make_parameters((300, 90), (40,))
    optimizer = Adam(parameters, lr=0.01)
    with Recorder(optimizer, tmp_path, budget=budget) as recorder:
        expected = recorder.estimate()
        take_steps(optimizer, parameters, range(1, 41))
    written = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    assert 0.5 < written / 40 / expected.disk_bytes < 2
    assert expected.memory_bytes < 64 * 2**20
    assert "KiB on disk" in str(expected)


@pytest.mark.parametrize("everything", [{"budget": "full"}, {"steps": "all"}], ids=str)
def test_looking_at_everything_is_what_is_timed(everything: Any, tmp_path: Path) -> None:
    optimizer = SGD(make_parameters((3000, 1000)), lr=0.1)
    with Recorder(optimizer, tmp_path / "sampled") as recorder:
        sampled = recorder.estimate()
    with Recorder(optimizer, tmp_path / "all", **everything) as recorder:
        expected = recorder.estimate()
    assert (sampled.elements, expected.elements) == (2048, 3_000_000)
    assert expected.seconds > 2 * sampled.seconds
