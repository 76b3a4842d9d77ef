"""Programs of JAX that run a few times only: NumPy computes what JAX traced, because XLA takes longer to compile it.

XLA compiles the criterion of Adam in a second, and NumPy computes it for a batch in 20 ms. JAX traces and differentiates the
program either way; what it has traced, a jaxpr, is a list of operations on arrays, for each of which NumPy has one. Both
compute in float64. Only last bits differ, as XLA may multiply and add in one operation and has powers of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

Operation = Callable[..., Any]


def call(program: Any, static: tuple[Any, ...], *args: Any, often: bool = False, **named: Any) -> Any:
    """Return what a jitted function makes of its static arguments, which come first, and of arrays.

    XLA computes it if it is called `often` with these static arguments and shapes, NumPy otherwise.
    """
    if not often:
        traced = program.trace(*static, *args, **named)  # which JAX remembers
        plan = _plan_of(traced.jaxpr)
        if plan is not None:
            return jax.tree.unflatten(traced.out_tree, plan.run(jax.tree.leaves((args, named))))
    return program(*static, *args, **named)


@lru_cache(maxsize=512)
def _plan_of(closed: ClosedJaxpr) -> "_Plan | None":
    """Return the plan of a jaxpr; None if the tables below lack an operation."""
    return _Plan(closed) if _has_all(closed) else None


def _has_all(closed: ClosedJaxpr) -> bool:
    """Return whether the tables below have every operation of a jaxpr, those of the jaxprs in it among them."""
    return all(
        _has_all(equation.params[_JAXPRS[name]]) if name in _JAXPRS else name in _OPERATIONS or name in _WITH_PARAMETERS
        for equation in closed.jaxpr.eqns
        for name in (equation.primitive.name,)
    )


class _Step(NamedTuple):
    """One operation of a plan. Numbers are places in the list of all values."""

    operation: Operation
    takes: tuple[int, ...]
    makes: int
    unneeded: tuple[int, ...] = ()
    """What no later step takes. Memory that is free early is still in the cache when it is used again."""


class _Plan:
    """The operations of a jaxpr in their order, those of the jaxprs in it among them. What is the same is computed once."""

    def __init__(self, closed: ClosedJaxpr) -> None:
        """`closed`: a jaxpr of which the tables have every operation."""
        self._values: list[Any] = []  # constants, and None for all that is to be computed
        self._steps: list[_Step] = []
        self._known: dict[Any, int] = {}  # by operation, parameters and what it takes: the place of what it makes
        self._inputs = [self._place() for _ in closed.jaxpr.invars]
        self._outputs = self._add(closed, self._inputs)
        self._steps = self._needed()

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Return what comes out."""
        values = self._values.copy()
        for place, value in zip(self._inputs, inputs, strict=True):
            values[place] = np.asarray(value)
        with np.errstate(all="ignore"):
            for operation, takes, makes, unneeded in self._steps:
                values[makes] = operation(*[values[place] for place in takes])
                for place in unneeded:
                    values[place] = None
        return [values[place] for place in self._outputs]

    def _place(self, value: Any = None) -> int:
        self._values.append(value)
        return len(self._values) - 1

    def _add(self, closed: ClosedJaxpr, inputs: Sequence[int]) -> list[int]:
        """Add the operations of a jaxpr, and return the places of what it makes."""
        inner = closed.jaxpr
        places: dict[Any, int] = dict(zip(inner.invars, inputs, strict=True))
        places |= {
            var: self._place(np.asarray(value)) for var, value in zip(inner.constvars, closed.consts, strict=True)
        }

        def place(of: Any) -> int:
            return self._constant(of) if isinstance(of, Literal) else places[of]

        for equation in inner.eqns:
            name, takes = equation.primitive.name, tuple(map(place, equation.invars))
            if name in _JAXPRS:
                made = self._add(equation.params[_JAXPRS[name]], takes)
            else:
                made = [self._computed(name, equation.params, takes)]
            places |= zip(equation.outvars, made, strict=True)
        return [place(of) for of in inner.outvars]

    def _needed(self) -> list[_Step]:
        """Return the operations that lead to an output, each with what is no longer needed after it."""
        steps: list[_Step] = []
        needed = {*self._outputs, *(place for place, value in enumerate(self._values) if value is not None)}
        for step in reversed(self._steps):
            if step.makes in needed:
                steps.append(step._replace(unneeded=tuple(set(step.takes) - needed)))
                needed |= set(step.takes)
        return steps[::-1]

    def _constant(self, literal: Any) -> int:
        """Return the place of a number that is written into a jaxpr."""
        value = np.asarray(literal.val, literal.aval.dtype)
        key = value.tobytes(), value.dtype.name, value.shape
        if key not in self._known:
            self._known[key] = self._place(value)
        return self._known[key]

    def _computed(self, name: str, params: Mapping[str, Any], takes: tuple[int, ...]) -> int:
        """Return the place of what an operation makes."""
        key = name, str(params), takes
        if key not in self._known:
            operation = partial(_WITH_PARAMETERS[name], params) if name in _WITH_PARAMETERS else _OPERATIONS[name]
            self._known[key] = self._place()
            self._steps.append(_Step(operation, takes, self._known[key]))
        return self._known[key]


def _select(which: Any, no: Any, yes: Any) -> Any:
    return np.where(which, yes, no)  # pyright: ignore[reportUnknownVariableType] (of arrays of any type)


def _bitcast(params: Any, value: Any) -> Any:
    return value.view(params["new_dtype"])


def _broadcast(params: Any, value: Any) -> Any:
    shape = params["shape"]
    lengths = dict(zip(params["broadcast_dimensions"], np.shape(value), strict=True))
    return np.broadcast_to(np.reshape(value, [lengths.get(axis, 1) for axis in range(len(shape))]), shape)


def _convert(params: Any, value: Any) -> Any:
    return np.asarray(value, params["new_dtype"])


def _power(base: Any, exponent: Any) -> Any:
    """Return powers, rounded from a wider format. NumPy's own miss the last bit at times, and float64 steps are held to it."""
    return np.power(base, exponent, dtype=np.longdouble).astype(base.dtype)


def _integer_power(params: Any, value: Any) -> Any:
    found = np.ones_like(value)
    for _ in range(abs(params["y"])):
        found = found * value
    return 1 / found if params["y"] < 0 else found


def _reshape(params: Any, value: Any) -> Any:
    return np.reshape(value, params["new_sizes"])


def _slice(params: Any, value: Any) -> Any:
    starts, ends = params["start_indices"], params["limit_indices"]
    return value[tuple(map(slice, starts, ends, params["strides"] or [1] * len(starts)))]


def _squeeze(params: Any, value: Any) -> Any:
    return np.squeeze(value, params["dimensions"])


def _stack(params: Any, *values: Any) -> Any:
    return np.stack(values, axis=params["axis"])


_JAXPRS = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr"}
"""Operations that are jaxprs themselves, and the parameter that has the jaxpr."""
_OPERATIONS: Mapping[str, Operation] = {
    "abs": np.abs,
    "add": np.add,
    "add_any": np.add,
    "and": np.bitwise_and,
    "div": np.divide,
    "eq": np.equal,
    "ge": np.greater_equal,
    "gt": np.greater,
    "is_finite": np.isfinite,
    "le": np.less_equal,
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "not": np.invert,
    "or": np.bitwise_or,
    "pow": _power,
    "select_n": _select,
    "shift_right_arithmetic": np.right_shift,
    "sign": np.sign,
    "sqrt": np.sqrt,
    "square": np.square,
    "sub": np.subtract,
}
_WITH_PARAMETERS: Mapping[str, Operation] = {
    "bitcast_convert_type": _bitcast,
    "broadcast_in_dim": _broadcast,
    "convert_element_type": _convert,
    "integer_pow": _integer_power,
    "reshape": _reshape,
    "slice": _slice,
    "squeeze": _squeeze,
    "stack": _stack,
}
