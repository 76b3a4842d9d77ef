"""Defines the errors that the cross-check raises."""


class TraceError(Exception):
    """A trace cannot be read or written: the message says which file, what is wrong, and what is accepted."""


class UnsupportedOptimizer(Exception):
    """There is no rule for this optimizer, or its parameters are of a kind that no rule covers."""


class MathMismatch(AssertionError):
    """An optimizer's step differs from its formula by more than rounding explains. `report` has the findings."""

    def __init__(self, message: str, report: object = None) -> None:
        super().__init__(message)
        self.report = report
