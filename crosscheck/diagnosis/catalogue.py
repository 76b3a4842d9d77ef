"""All mistakes that are known, by the name of the rule."""

from crosscheck.diagnosis.adam import OF_ADAM
from crosscheck.diagnosis.average import OF_AVERAGES
from crosscheck.diagnosis.gradient import OF_GRADIENTS
from crosscheck.diagnosis.mistake import Mistakes
from crosscheck.diagnosis.sgd import OF_SGD

CATALOGUE: dict[str, Mistakes] = {
    "sgd": OF_SGD,
    "adam": OF_ADAM,
    "adamw": OF_ADAM,
    "gradient": OF_GRADIENTS,
    "average": OF_AVERAGES,
}
