"""How far is a recorded number from the right one, and what does that come to? All checks that compare numbers use this.

`judge.py` has rows judged by a rule, and explains those that disagree, the first of them element by element (`arithmetic.py`).
What was judged is summed up in `tally.py`, `eta_map.py` and `power.py`. Where numbers must be the same, `bits.py` compares them.
"""
