"""Which arithmetic is taken for a tensor follows from its device, its implementation and its options."""

import pytest

from crosscheck.criterion.profile import Profile, profile_of
from crosscheck.tolerance import FORMATS
from crosscheck.trace.format import TensorInfo

ON_GPU = TensorInfo(name="weight", shape=(3,), dtype="float32", device="cuda", group=0, implementation="single")


@pytest.mark.parametrize("option", ["compiled", "capturable", "differentiable"])
def test_where_the_count_of_steps_is_a_tensor_scalars_have_the_error_of_float32(option: str) -> None:
    profile = profile_of(ON_GPU, {option: True})
    assert profile.name == f"single on cuda, {option}"
    assert profile.scalar_error == profile.beta_error == FORMATS["float32"].unit_roundoff
    assert profile_of(ON_GPU, {option: False}) == Profile("single on cuda")
