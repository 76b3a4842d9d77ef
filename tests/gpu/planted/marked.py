"""The part of the marked tests, with tests of its own."""

from pathlib import Path

from tests.gpu.parts.marked_tests import MarkedTests

PART = MarkedTests(files=lambda: [Path(__file__).with_name("some_tests.py")])
