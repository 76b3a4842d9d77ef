"""The type checker of the tests: beartype, which looks at the first value of a mapping only, and here at each."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args, get_origin

from beartype import beartype
from beartype.door import is_bearable
from beartype.vale import Is


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, which now refuses arguments and results that are not of its types."""
    for name, hint in function.__annotations__.items():
        function.__annotations__[name] = _of_all_values(hint)
    return beartype(function)


def _of_all_values(hint: Any) -> Any:
    """Return the type of a mapping as one that holds for each of its values, and any other type as it is."""
    if get_origin(hint) not in (dict, Mapping):
        return hint
    value = get_args(hint)[1]

    def hold(mapping: Mapping[str, Any]) -> bool:
        return all(is_bearable(each, value) for each in mapping.values())

    return Annotated[hint, Is[hold]]
