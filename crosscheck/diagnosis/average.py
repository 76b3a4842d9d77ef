"""Lists what may happen to a moving average of the parameters, other than what is claimed."""

from collections.abc import Iterator

import numpy as np

from crosscheck.diagnosis.mistake import Mistakes, WrongInputs, with_numbers, with_values
from crosscheck.rules.average import AverageFlags
from crosscheck.rules.inputs import Inputs


def _wrong_inputs(flags: AverageFlags, inputs: Inputs) -> Iterator[WrongInputs]:
    decay, seen = inputs.hyperparameters["decay"], inputs.hyperparameters["seen"]
    late = with_values(inputs, grad=inputs.values["previous"])
    still = with_numbers(inputs, decay=np.ones_like(decay), seen=np.full_like(seen, np.inf))
    yield WrongInputs("it takes in the parameters of the step before: it is one step late", flags, late)
    yield WrongInputs("it was not updated", flags, still)
    if flags.equal:
        yield WrongInputs(
            "its count of updates is one behind", flags, with_numbers(inputs, seen=np.maximum(seen - 1, 0))
        )
    else:
        yield WrongInputs("decay and 1 - decay are swapped", flags, with_numbers(inputs, decay=1 - decay))
    if (seen == 0).any():
        started = with_numbers(inputs, seen=np.ones_like(seen))
        sentence = (
            "the first update averages with the initial parameters instead of copying (of an average that is meant to, "
            "claim Claims(averaged=1))"
        )
        yield WrongInputs(sentence, flags, started)
    else:
        yield WrongInputs("it is a copy of the parameters", flags, with_numbers(inputs, seen=np.zeros_like(seen)))


OF_AVERAGES = Mistakes(_wrong_inputs)
