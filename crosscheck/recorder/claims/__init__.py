"""What the training loop claims, and whether a replay can check it.

`loop_objects.py` joins what is claimed by hand with what the loop's own objects say: a scheduler, as a formula (`schedules.py`) or,
where its class has none, as the rates of a copy (`stepped_copy.py`), and an averaged model (`averages.py`). `checkable.py` refuses
claims that no replay could check, when the recorder is attached.
"""
