"""Tests that pass, fail and skip; pytest finds them only when it is given this file."""

import pytest

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("number", [1, 2, 3])
def test_numbers(number: int) -> None:
    assert number != 2, "two is\nwrong"


def test_fine() -> None:
    pass


def test_elsewhere() -> None:
    pytest.skip("there is no such device")


@pytest.fixture
def broken() -> None:
    raise RuntimeError("no room")


@pytest.mark.usefixtures("broken")
def test_set_up() -> None:
    pass
