"""Where images come from: a file or a folder for each value that `data.source` may have.

Each source has a function `load`, which returns a `Dataset`. `sources.py` is the only module that knows all of them.
"""
