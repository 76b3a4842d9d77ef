"""In what do the ranks of a run differ, which should all hold the same?

`comparison.py` holds what the ranks recorded against each other, and is shared by the replays of all ranks; `differences.py` finds
in what two of them differ.
"""
