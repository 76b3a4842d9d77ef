"""Makes of a run's network the bytes of a torch.export program and of an ONNX model, both checked against the checkpoint.

Both take images as an image library decodes them, uint8 (N, H, W, C), and give logits: normalisation is inside, because mean and
std that are kept somewhere else are the first thing to go wrong.
"""

import io
import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distrib.errors import RunFault
from distrib.inference.network import Classifier
from distrib.networks.factory import described

TOLERANCE = 1e-4
"""Of the largest logit: what a program may differ by. Sums in another order make a thousandth of it."""
_BATCHES = (1, 64)
"""Images of the batches that are checked; the program was traced with neither."""
_TRACED = 2


@dataclass(frozen=True, slots=True)
class Exported:
    """One file's bytes, and how far its logits are from the checkpoint's."""

    content: bytes
    difference: float
    """The largest difference of a logit, as a share of the largest logit."""
    checked_by: str


class _FromPixels(nn.Module):
    """(N, H, W, C) uint8 -> (N, classes) float32 logits."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.views = classifier.views
        self.memory_format = classifier.normalize.memory_format
        self.register_buffer("scale", classifier.normalize.scale)
        self.register_buffer("shift", classifier.normalize.shift)

    def forward(self, images: Tensor) -> Tensor:
        pixels = torch.addcmul(self.get_buffer("shift"), images.float(), self.get_buffer("scale"))
        return self.views(pixels.permute(0, 3, 1, 2).contiguous(memory_format=self.memory_format))


def export(classifier: Classifier) -> dict[str, Exported]:
    """Return the files by name.

    Raises RunFault if one of them cannot be made, or does not compute what the checkpoint computes.
    """
    example = _images(classifier, _TRACED)
    classes = json.dumps(list(classifier.classes))
    with _refused(f"torch.export cannot take the network of checkpoint {classifier.path}"):
        program = torch.export.export(
            _FromPixels(classifier).eval(), (example,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}}
        )
        pt2 = _pt2(program, classifier, classes)
    with _refused(f"torch.onnx cannot take the network of checkpoint {classifier.path}"):
        onnx = _onnx(program, classifier, classes)
    files = {"model.pt2": pt2, "model.onnx": onnx}
    for name, file in files.items():
        if file.difference > TOLERANCE:
            raise RunFault(
                f"{name} computes something else than checkpoint {classifier.path}: a logit differs by {file.difference:.1e} of "
                f"the largest one, and {TOLERANCE:.0e} is accepted; nothing was written"
            )
    return files


@contextmanager
def _refused(problem: str) -> Generator[None]:
    """Raise RunFault for whatever an exporter raises: a network is anybody's code, and each of them takes a part of Python only.

    What they print on standard error is not shown: it is the whole program as far as they came.
    """
    try:
        with redirect_stderr(io.StringIO()):
            yield
    except Exception as error:
        raise RunFault(f"{problem} ({described(error)}); nothing was written") from error


def _pt2(program: torch.export.ExportedProgram, classifier: Classifier, classes: str) -> Exported:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"classes.json": classes})
    # What was written is not read again: torch.export.load unpickles.
    run: Callable[[Tensor], Tensor] = program.module()
    return Exported(file.getvalue(), _difference(classifier, run), f"torch {torch.__version__}")


def _onnx(program: torch.export.ExportedProgram, classifier: Classifier, classes: str) -> Exported:
    converted: Any = torch.onnx.export(
        program,
        input_names=["images"],
        output_names=["logits"],
        dynamo=True,
        dynamic_shapes={"images": {0: "batch"}},
        verbose=False,
    )
    converted.model.metadata_props["classes"] = classes
    content = converted.model_proto.SerializeToString()
    run, checked_by = _onnx_runner(content)

    def logits(images: Tensor) -> Tensor:
        found: Mapping[str, np.ndarray] = {"images": images.numpy()}
        return torch.from_numpy(np.asarray(run(None, found)[0]))

    return Exported(content, _difference(classifier, logits), checked_by)


def _onnx_runner(content: bytes) -> tuple[Any, str]:
    """Return what runs the model as others will, and its name with its version."""
    if find_spec("onnxruntime") is not None:
        runtime: Any = __import__("onnxruntime")
        session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return session.run, f"onnxruntime {runtime.__version__}"
    onnx: Any = __import__("onnx.reference")
    evaluator = onnx.reference.ReferenceEvaluator(onnx.load_from_string(content))
    return evaluator.run, f"the reference evaluator of onnx {onnx.__version__}"


def _difference(classifier: Classifier, logits: Callable[[Tensor], Tensor]) -> float:
    """Return the largest difference from the checkpoint's logits, as a share of the largest of these."""
    found = 0.0
    with torch.inference_mode():
        for size in _BATCHES:
            images = _images(classifier, size)
            expected = classifier.views(classifier.normalize(images))
            share = (logits(images) - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
            found = max(found, share.item()) if share.isfinite() else float("inf")
    return found


def _images(classifier: Classifier, number: int) -> Tensor:
    """Return images of random pixels, which hold every value of a pixel."""
    size, channels = classifier.image_size, len(classifier.mean)
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, 256, (number, size, size, channels), dtype=torch.uint8, generator=generator)
