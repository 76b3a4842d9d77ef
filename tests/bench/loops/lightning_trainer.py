"""Lightning's Trainer without logger, bar and checkpoints, with the number of workers as the argument."""

import sys
import warnings
from typing import Any

import lightning
from torch import Tensor
from torch.nn import functional

from tests.bench import dataset, job
from tests.bench.pace import Pace


class Module(lightning.LightningModule):
    """The network, its loss, its optimizer and its schedule."""

    def __init__(self) -> None:
        super().__init__()
        self.network = job.network()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        images, labels = batch
        loss = functional.cross_entropy(self.network(images.contiguous(memory_format=job.MEMORY_FORMAT)), labels)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = job.sgd(self.network.parameters())
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": job.one_cycle(optimizer), "interval": "step"},
        }


class Laps(lightning.Callback):
    """Waits for the signal before each epoch."""

    def __init__(self) -> None:
        self._pace = Pace()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        self._pace.lap()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        trainer.should_stop = not self._pace.lap()


def main(workers: int) -> None:
    warnings.filterwarnings("ignore", module="lightning")
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=job.EPOCHS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=Laps(),
    )
    trainer.fit(Module(), dataset.loader(workers))


if __name__ == "__main__":
    main(int(sys.argv[1]))
