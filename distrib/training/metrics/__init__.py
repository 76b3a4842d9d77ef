"""What is measured of a run, and where the numbers go.

`metrics.py` writes them into metrics.jsonl, and `trackers.py` hands the same lines to experiment trackers. Nothing here knows the
run, its network or its optimizer: the observers of the loop and the evaluation feed it.
"""
