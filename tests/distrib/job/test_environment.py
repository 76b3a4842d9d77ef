"""What the environment says is whole numbers in their ranges, or is bad input, whatever it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrib.errors import BadInput
from distrib.job import environment

RANK_1 = {
    "WORLD_SIZE": "2",
    "RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}
NUMBERS = (
    *("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "OMP_NUM_THREADS"),
    *("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"),
    *("SLURM_CPUS_PER_TASK", "SLURM_GPUS_ON_NODE"),
)


def refusal(variables: dict[str, str]) -> str:
    with pytest.raises(BadInput) as caught:
        environment.check(variables)
    return str(caught.value)


@pytest.mark.parametrize("variables", [{}, RANK_1, {"WORLD_SIZE": "1"}, {"SLURM_GPUS_ON_NODE": "0"}])
def test_what_launchers_say_passes(variables: dict[str, str]) -> None:
    environment.check(variables)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value", ["", "two", "-1", "1.5", "1e3", " 1", "²", "9" * 5000, "0" * 5000, f"{9:030}", "0x10", "a[$(touch x)]"]
)
def test_what_is_no_number_is_named(name: str, value: str) -> None:
    said = refusal(RANK_1 | {name: value})
    assert f"{name} = {value[:100]!r}" in said
    assert len(said) < 400


@pytest.mark.parametrize("name", list(RANK_1))
def test_a_rank_that_does_not_know_which_one_it_is(name: str) -> None:
    variables = {key: value for key, value in RANK_1.items() if key != name}
    if name == "LOCAL_WORLD_SIZE":
        environment.check(variables)
    else:
        assert f"nothing of {name}" in refusal(variables)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RANK": "1"}, "RANK = 1, and nothing of WORLD_SIZE, LOCAL_RANK"),
        ({"RANK": "1", "WORLD_SIZE": "1"}, "RANK = 1 and WORLD_SIZE = 1, but ranks count from 0"),
    ],
)
def test_a_rank_that_is_alone(variables: dict[str, str], words: str) -> None:
    assert words in refusal(variables)
    environment.check({"RANK": "0"})


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK"])
def test_a_rank_beyond_the_last(name: str) -> None:
    assert f"{name} = 2 and" in refusal(RANK_1 | {name: "2"})


@given(st.dictionaries(st.sampled_from(NUMBERS), st.text(max_size=8) | st.integers(-3, 3).map(str)))
def test_whatever_it_says_is_taken_or_is_bad_input(variables: dict[str, str]) -> None:
    try:
        environment.check(variables)
    except BadInput as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert all(int(value) >= 0 for value in variables.values())
