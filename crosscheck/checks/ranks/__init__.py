"""In what do the ranks of a run differ, which should all hold the same?

`comparison.py` compares what the ranks recorded, and is shared by the replays of all ranks. `starts.py` pairs their segments,
`differences.py` finds in what two ranks differ, and `causes.py` says it in words.
"""
