"""The tests check the types of the criterion and the rules, the shapes of the arrays among them, at every call.

A machine that only runs the tests of the GPU may lack beartype; there nothing is checked.
"""

from importlib.util import find_spec

from jaxtyping import install_import_hook

CHECKED = ("crosscheck.criterion", "crosscheck.rules")

if find_spec("beartype") is not None:
    from tests import typecheck

    install_import_hook(CHECKED, f"{typecheck.__name__}.checked")
