"""Lists all mistakes that are known, by the name of the rule."""

from crosscheck.diagnosis.adam import OF_ADAM
from crosscheck.diagnosis.average import OF_AVERAGES
from crosscheck.diagnosis.clipping import OF_CLIPPING
from crosscheck.diagnosis.mistake import Mistakes
from crosscheck.diagnosis.sgd import OF_SGD

CATALOGUE: dict[str, Mistakes] = {
    "sgd": OF_SGD,
    "adam": OF_ADAM,
    "adamw": OF_ADAM,
    "clipping": OF_CLIPPING,
    "average": OF_AVERAGES,
}
