"""The loop of Accelerate's image classification example, with the number of workers as the argument."""

import sys
from typing import Any, cast

from accelerate import Accelerator
from torch.nn import functional

from tests.bench import dataset, job
from tests.bench.pace import Pace


def main(workers: int) -> None:
    pace = Pace()
    accelerator = Accelerator(cpu=True)
    network = job.network()
    sgd = job.sgd(network.parameters())
    prepare = cast(Any, accelerator).prepare
    model, optimizer, loader, scheduler = prepare(network, sgd, dataset.loader(workers), job.one_cycle(sgd))
    model.train()
    while pace.lap():
        total = 0.0
        for images, labels in loader:
            loss = functional.cross_entropy(model(images.contiguous(memory_format=job.MEMORY_FORMAT)), labels)
            total += loss.detach().float()  # for the tracker, as in the example
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()


if __name__ == "__main__":
    main(int(sys.argv[1]))
