"""Writes the card of an exported network: what it is, what it was trained on and how well, and how to use the files beside it."""

import hashlib
import re
from collections.abc import Iterator, Mapping

from distrib.export.program import TOLERANCE, Exported
from distrib.inference.network import Classifier
from distrib.page.charts import shown
from distrib.page.run_files import RunFiles
from distrib.text import count, harmless

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#!|~&$])")
_MOST_CLASSES = 1000


def write(run: RunFiles, classifier: Classifier, step: int, files: Mapping[str, Exported]) -> str:
    """Return the card in Markdown; `step` is that of the checkpoint.

    Names from outside are escaped: they cannot mark up anything.
    """
    return "\n".join([*_about(run, classifier, step), *_use(classifier), *_files(files), *_recipe(run)]) + "\n"


def plain(text: object) -> str:
    """Return the text as Markdown shows it unchanged, on one line."""
    return _MARKDOWN.sub(r"\\\1", harmless(str(text)).replace("\n", " "))


def _about(run: RunFiles, classifier: Classifier, step: int) -> Iterator[str]:
    classes = len(classifier.classes)
    yield f"# {plain(run.name)}"
    yield ""
    yield (
        f"A neural network that says which of {count(classes, 'class')} an image of {classifier.image_size} x "
        f"{classifier.image_size} pixels shows, trained by Twinstep. It is the network of the checkpoint after step {step}"
        + (", with the moving average of its weights." if run.config.get("training.ema") is not None else ".")
    )
    yield ""
    yield "| | |"
    yield "|---|---|"
    for name, value in _facts(run, step):
        yield f"| {name} | {plain(value)} |"
    yield ""
    yield "## Classes"
    yield ""
    yield "By the number of the logit:"
    yield ""
    for number, name in enumerate(classifier.classes[:_MOST_CLASSES]):
        yield f"- {number}: {plain(name)}"
    if classes > _MOST_CLASSES:
        yield f"- and {classes - _MOST_CLASSES} more, in the metadata of both files under `classes`"
    yield ""


def _facts(run: RunFiles, step: int) -> Iterator[tuple[str, object]]:
    data, summary = run.facts.data, run.summary
    yield "data", data.get("source", run.config.get("data.source"))
    for name in ("training images", "test images"):
        if name in data:
            yield name, data[name]
    of_epoch = {int(at): score for at, score in zip(run.epochs.steps, run.epochs.values["test_accuracy"], strict=True)}
    accuracy = shown(of_epoch[step], "percent") if step in of_epoch else "not evaluated at this step"
    yield "test accuracy", accuracy
    yield "cross-check", _verdict(run)
    if run.facts.parameters is not None:
        yield "parameters", f"{run.facts.parameters:,}"
    yield "optimizer", run.config.get("optimizer.name")
    yield "epochs", run.config.get("training.epochs")
    yield "seed", run.config.get("training.seed")
    if summary is not None and summary.weights_sha256:
        yield "sha256 of the final weights", summary.weights_sha256
    if run.facts.versions:
        yield "trained with", ", ".join(f"{name} {version}" for name, version in run.facts.versions.items() if version)


def _verdict(run: RunFiles) -> str:
    """Return in a sentence whether each step of the training was found to be what Optax makes of it."""
    found = None if run.summary is None else run.summary.crosscheck
    if found is None:
        return "none: the run has not come to its end"
    steps = f"; {count(found.steps_checked, 'step')} taken again by Optax" if found.steps_checked else ""
    return f"{found.verdict}{steps}"


def _use(classifier: Classifier) -> Iterator[str]:
    size = classifier.image_size
    normal = [f"{mean:.6g} and {std:.6g}" for mean, std in zip(classifier.mean, classifier.std, strict=True)]
    yield "## Use"
    yield ""
    yield (
        f"Both files take `images`, uint8 (N, {size}, {size}, {len(normal)}): RGB as a person sees it, turned as the camera says "
        f"(EXIF) and resized to {size} x {size} with bilinear interpolation, N free; what is transparent lay on grey (#808080) "
        f"in training. They give `logits`, float32 (N, {len(classifier.classes)}). Pixels are normalised inside: divided by 255, "
        f"and then by channel with mean and standard deviation {'; '.join(normal)}."
    )
    yield ""
    yield "```python"
    yield "import numpy"
    yield "from PIL import Image, ImageOps"
    yield ""
    yield 'image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")'
    yield f"image = image.resize(({size}, {size}), Image.Resampling.BILINEAR)"
    yield f"images = numpy.array(image)[None]  # (1, {size}, {size}, 3) uint8"
    yield ""
    yield "import onnxruntime"
    yield ""
    yield 'session = onnxruntime.InferenceSession("model.onnx")'
    yield 'logits = session.run(None, {"images": images})[0]'
    yield ""
    yield "import torch"
    yield ""
    yield 'program = torch.export.load("model.pt2").module()  # it unpickles: load only files that you trust'
    yield "probabilities = program(torch.from_numpy(images)).softmax(dim=1)"
    yield "```"
    yield ""


def _files(files: Mapping[str, Exported]) -> Iterator[str]:
    yield "## Files"
    yield ""
    yield "| file | bytes | sha256 | largest difference from the checkpoint's logits | checked by |"
    yield "|---|---|---|---|---|"
    for name, file in files.items():
        digest = hashlib.sha256(file.content).hexdigest()
        yield (
            f"| {name} | {len(file.content):,} | {digest} | {file.difference:.1e} of the largest logit, "
            f"{TOLERANCE:.0e} accepted | {plain(file.checked_by)} |"
        )
    yield ""


def _recipe(run: RunFiles) -> Iterator[str]:
    yield "## Recipe"
    yield ""
    yield "Every key with its value; `config.toml` in the run's folder repeats the run."
    yield ""
    for key, value in run.config.items():
        yield f"- {plain(key)} = {plain(value)}"
