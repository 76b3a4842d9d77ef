"""`python -m distrib.export`: files that compute what the checkpoint computes, and a card that says how to use them."""

import hashlib
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from distrib import load_run
from distrib.data.sources import synthetic
from distrib.export import program
from distrib.export.__main__ import main
from distrib.export.card import plain
from tests.support import SMALL, train_well

FILES = ("card.md", "model.onnx", "model.pt2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train_well(folder, *SMALL, "--training.ema=0.9", "--training.epochs=1")
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files, checked by the reference evaluator of ONNX, which needs nothing that the extra does not bring."""
    pytest.importorskip("onnxscript")

    def without_runtime(name: str) -> Any:
        return None if name == "onnxruntime" else find_spec(name)

    to = tmp_path_factory.mktemp("exported") / "a" / "b"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "find_spec", without_runtime)
        assert main([str(run), "--to", str(to)]) == 0
    return to


def export(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main([str(argument) for argument in arguments])
    return code, capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.11, of its own reading
def test_the_example_of_the_card_gives_what_the_run_predicts(exported: Path, run: Path, tmp_path: Path) -> None:
    """It is run as it stands, on an image of another size."""
    pixels = synthetic.load(10, 10).test.images[0].numpy()
    Image.fromarray(pixels).resize((50, 40)).save(tmp_path / "photo.png")
    [expected] = load_run(run).classifier().predict([tmp_path / "photo.png"])
    card = (exported / "card.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict[str, Any] = {}
    blocks = (
        code.replace("photo.jpg", str(tmp_path / "photo.png")).replace("model.", f"{exported}/model.").split("\n\n")
    )
    if find_spec("onnxruntime") is None:
        blocks = [block for block in blocks if "onnxruntime" not in block]
    exec("\n".join(blocks), names)  # noqa: S102 (it is what the card tells a person to run)
    probabilities = names["probabilities"][0].tolist()
    classes = load_run(run).classifier().classes
    assert dict(zip(classes, probabilities, strict=True)) == pytest.approx(expected, abs=1e-6)
    if "logits" in names:
        assert torch.from_numpy(names["logits"]).softmax(dim=1)[0].tolist() == pytest.approx(probabilities, abs=1e-6)


def test_the_card_describes_the_files_and_the_run(exported: Path, run: Path) -> None:
    card = (exported / "card.md").read_text()
    assert sorted(file.name for file in exported.iterdir()) == list(FILES)
    for name in FILES[1:]:
        assert hashlib.sha256((exported / name).read_bytes()).hexdigest() in card
    for words in (
        "which of 10 classes an image of 32 x 32 pixels shows",
        "with the moving average of its weights",
        f"| test accuracy | {load_run(run).summary['test_accuracy']:.2%} |",
        "| cross-check | not recorded |",
        "- 3: frame",
        "- optimizer.lr = ",
        "the reference evaluator of onnx",
    ):
        assert words in card


def test_the_batch_is_free_and_the_classes_are_in_the_file(exported: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(exported / "model.onnx"))
    for value, shape in ((model.graph.input[0], ["batch", 32, 32, 3]), (model.graph.output[0], ["batch", 10])):
        assert [each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim] == shape
    assert {each.key: each.value for each in model.metadata_props}["classes"].startswith('["disc", "ring"')


def test_a_program_that_computes_something_else_is_not_written(
    run: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    del exported

    def forgets_the_mean(self: Any, images: Tensor) -> Tensor:
        return self.views((images.float() * self.scale).permute(0, 3, 1, 2))

    monkeypatch.setattr(program._FromPixels, "forward", forgets_the_mean)  # pyright: ignore[reportPrivateUsage]
    code, said = export(capsys, run, "--to", tmp_path / "wrong")
    assert code == 1
    assert "fault: model.pt2 computes something else than checkpoint" in said
    assert "1e-04 is accepted; nothing was written" in said
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize(
    ("network", "code", "words"),
    [("Viewing", 0, ""), ("Looking", 1, "fault: torch.export cannot take the network of checkpoint ")],
)
def test_networks_of_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], network: str, code: int, words: str
) -> None:
    """One that needs its images in one piece, and one whose way depends on the images, which no program can follow."""
    pytest.importorskip("onnxscript")
    name = f"tests.networks:{network}"
    train_well(tmp_path / "run", *SMALL, "--training.epochs=1", "--model.name", name, "--model.channels_last=false")
    found, said = export(capsys, tmp_path / "run", "--network", name)
    assert (found, said.count("\n")) == (code, code), said
    assert said.startswith(words)
    assert (tmp_path / "run" / "export").exists() is (code == 0)


def test_a_logit_that_is_no_number_is_a_difference(run: Path) -> None:
    classifier = load_run(run).classifier()

    def nothing(images: Tensor) -> Tensor:
        return torch.full((len(images), 10), np.nan)

    assert program._difference(classifier, nothing) == np.inf  # pyright: ignore[reportPrivateUsage]


def test_bad_input(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "started").mkdir()
    (tmp_path / "started" / "config.toml").write_bytes((run / "config.toml").read_bytes())

    def no_program(_classifier: object) -> dict[str, program.Exported]:
        return {"model.pt2": program.Exported(b"", 0.0, "nobody")}

    monkeypatch.setattr(program, "export", no_program)
    for arguments, words in {
        (tmp_path / "nothing",): "nothing is not the folder of a run: it holds no config.toml",
        (tmp_path / "started",): "is neither the folder of a run, which holds checkpoints/, nor a whole checkpoint",
        (run, "--to", tmp_path / "file"): "file cannot be written (File exists): name another folder with --to",
        (run, "--to", tmp_path / "file" / "below"): "below cannot be written (Not a directory): name another folder",
        (): "the following arguments are required: RUN",
    }.items():
        code, said = export(capsys, *arguments)
        assert (code, said.count("\n")) == (2, 1), said
        assert said.startswith("bad input: ")
        assert words in said

    def nothing_installed(_name: str) -> None:
        return None

    monkeypatch.setattr("distrib.export.__main__.find_spec", nothing_installed)
    code, said = export(capsys, run)
    assert code == 2
    for words in (
        "needs onnx and onnxscript",
        "pip install '.[export]' in a clone of Twinstep",
    ):
        assert words in said


def test_names_from_outside_mark_up_nothing() -> None:
    assert plain("<b>*a*|[b](c)\n# `d`") == r"\<b\>\*a\*\|\[b\]\(c\) \# \`d\`"
    assert plain("cat") == "cat"
