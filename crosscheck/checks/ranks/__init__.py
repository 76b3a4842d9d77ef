"""In what do the ranks of a run differ, which should all hold the same?

`comparison.py` compares what the ranks recorded, and is shared by the replays of all ranks; `differences.py` finds in what two
of them differ.
"""
