"""What a network that a recipe names must be: each mistake is one sentence that names the key and the fix."""

from pathlib import Path

import pytest
import torch
from torch import nn

from distrib.errors import BadInput
from distrib.networks.build import build_network, expect_enough_images, expect_trainable, synchronised
from distrib.networks.config import ModelConfig
from distrib.networks.factory import code_of, find_factory
from tests import networks


def made(name: str, **options: int) -> nn.Module:
    """Return the network if this trainer would train it. Raises BadInput."""
    config = ModelConfig(name=name, options=dict(options))
    network = build_network(config, 10)
    expect_trainable(config, network, 10, 32)
    return network


def refused(name: str, **options: int) -> str:
    with pytest.raises(BadInput) as caught:
        made(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_package.net:build", ["importing no_such_package.net raised ModuleNotFoundError", "PYTHONPATH"]),
        ("tests.networks:drwan", ["tests.networks has no 'drwan'", "did you mean drawn?"]),
        ("tests.networks:xyz", ["tests.networks has no 'xyz'", "it defines Certain, Counting"]),
        ("tests.networks:NOT_CALLABLE", ["is not callable, it is int", "num_classes"]),
        ("tests.networks:no_module", ["returned list", "torch.nn.Module"]),
        ("tests.networks:raises", ["raised RuntimeError: no weights for 10 classes (", "networks.py, line "]),
        (
            "tests.networks:exits",
            ["called with num_classes = 10", "raised SystemExit: usage: train.py --classes 10 (", "networks.py"],
        ),
        ("tests.networks:grey", ["two images as (N, C, H, W) = (2, 3, 32, 32)", "raised RuntimeError: "]),
        ("tests.networks:too_many", ["returned float32 of shape (2, 11)", "(2, 10) are expected"]),
        (
            "tests.networks:Viewing",
            ["in training mode it raised RuntimeError: view size", "model.channels_last = false"],
        ),
        (
            "tests.networks:OnlyTraining",
            ["in evaluation mode it raised RuntimeError: mat1 and mat2", "networks.py, line "],
        ),
        ("tests.networks:Late", ["its forward pass adds or removes middle", "__init__ register them"]),
        ("tests.networks:half", ["its parameter 1.weight is float16", "precision.mode"]),
        ("tests.networks:lazy", ["its parameter 1.weight has no shape", "call the network once"]),
        ("tests.networks:nothing_to_train", ["nothing to train"]),
        ("tests.networks:Unused", ["does not depend on spare.weight, spare.bias", "requires_grad_(False)"]),
        ("tests.networks:Untensored", ["holds _extra_state, which is no tensor but str"]),
        ("tests.networks:Tied", ["first.weight and second.weight are one tensor"]),
    ],
)
def test_what_is_no_network_for_this_trainer(name: str, words: list[str]) -> None:
    said = refused(name)
    assert said.startswith(f"model.name = {name}")
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("name", "size", "accepted"), [("article", 64, "32"), ("article", 31, "32"), ("speednet", 8, "9 to 512")]
)
def test_a_size_that_a_network_of_the_project_does_not_take(name: str, size: int, accepted: str) -> None:
    config = ModelConfig(name=name)
    with pytest.raises(
        BadInput, match=rf"data\.image_size = {size}: model\.name = {name} takes images of {accepted} pixels"
    ):
        expect_trainable(config, build_network(config, 10), 10, size)


@pytest.mark.parametrize(("name", "size"), [("article", 32), ("speednet", 9), ("speednet", 50), ("resnet18", 8)])
def test_sizes_that_they_take(name: str, size: int) -> None:
    config = ModelConfig(name=name)
    network = build_network(config, 10)
    expect_trainable(config, network, 10, size)
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 10)


def test_options_that_the_factory_does_not_take() -> None:
    said = refused("tests.networks:drawn", depth=3)
    assert "model.options = {depth = 3}" in said
    assert "unexpected keyword argument 'depth'" in said
    assert "width: int = 4" in said, "what it takes"
    assert "model.options" in refused("article", width=3)


def test_a_module_that_breaks_when_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "breaks.py").write_text("import torch\n1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    said = refused("breaks:build")
    assert f"importing breaks raised ZeroDivisionError: division by zero ({tmp_path}/breaks.py, line 2)" in said


def test_a_module_that_is_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "script.py").write_text(
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('x')\np.parse_args([])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    said = refused("script:build")
    assert "importing script ended the program (SystemExit: 2 (" in said
    assert '`if __name__ == "__main__":`' in said


def test_a_file_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("from tests.networks import drawn\n")
    (tmp_path / "json.py").write_text("raise RuntimeError('this is not the json of the standard library')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in __import__("sys").path if entry])
    assert isinstance(made("mine:drawn", width=2), nn.Module)


@pytest.mark.parametrize("name", ["resnet19", "os.path", ":build", "net:", "net:a b", "../net:build", "net.py:build!"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match=r"accepted are article, resnet18, speednet or package\.module:factory"):
        ModelConfig(name=name)


def test_what_is_wrong_with_every_layout_is_not_blamed_on_one() -> None:
    assert "channels_last" not in refused("tests.networks:grey")


def test_the_way_out_of_a_layout_works() -> None:
    config = ModelConfig(name="tests.networks:Viewing", channels_last=False)
    expect_trainable(config, build_network(config, 10), 10, 32)


def test_logits_in_evaluation_are_looked_at_too() -> None:
    said = refused("tests.networks:OnlyTraining", returns=3)
    assert "returned float32 of shape (2, 3) in evaluation mode" in said


@pytest.mark.parametrize("name", ["tests.networks:drawn", "tests.networks:Replacing"])
def test_the_trial_leaves_no_trace(name: str) -> None:
    config = ModelConfig(name=name)
    network = build_network(config, 10)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random = torch.random.get_rng_state()
    expect_trainable(config, network, 10, 32)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(tensor.is_inference() for tensor in network.state_dict().values())


def test_frozen_layers_and_other_buffers_are_welcome() -> None:
    assert isinstance(made("tests.networks:Frozen"), networks.Frozen)


def test_one_image_is_too_few_for_a_batch_norm() -> None:
    config = ModelConfig(name="tests.networks:drawn")
    network = build_network(config, 10)
    with pytest.raises(BadInput, match=r"training\.batch_size = 2 leaves one image .*larger batch"):
        expect_enough_images(config, network, 1, "training.batch_size = 2")
    expect_enough_images(config, network, 2, "training.batch_size = 2")
    expect_enough_images(ModelConfig(), build_network(ModelConfig(), 10), 1, "training.batch_size = 2")


def test_a_synchronised_batch_norm_needs_an_image_on_every_rank() -> None:
    config = ModelConfig(name="tests.networks:drawn", sync_batch_norm=True)
    network = build_network(config, 10)
    expect_enough_images(config, network, 1, "training.batch_size = 2")
    with pytest.raises(BadInput, match=r"training\.batch_size = 2 leaves no image .*larger batch"):
        expect_enough_images(config, network, 0, "training.batch_size = 2")


def test_synchronised_batch_norm_needs_a_gpu() -> None:
    network = networks.drawn(10)
    with pytest.raises(BadInput, match=r"model\.sync_batch_norm = true: .*GPUs only.*cpu"):
        synchronised(network, torch.device("cpu"))
    assert isinstance(synchronised(network, torch.device("cuda")).get_submodule("0"), nn.SyncBatchNorm)


def test_the_code_of_a_factory() -> None:
    name = "tests.networks:drawn"
    code = code_of(name, find_factory(name))
    assert code is not None
    assert code.path == Path(networks.__file__)
    assert len(code.sha256) == 64
    assert code_of("resnet18", find_factory("resnet18")) is None, "the project's own has its version"
