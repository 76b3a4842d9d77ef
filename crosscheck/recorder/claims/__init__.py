"""What the training loop claims, and whether a replay can check it.

`loop_objects.py` joins what is claimed by hand with what the loop's own objects say. Of a scheduler (`scheduler.py`) this is a
formula (`schedule_formulas.py`) or, where its class has none, the rates of a copy (`stepped_copy.py`); of an averaged model it is
the kind of average (`averages.py`). `checkable.py` refuses claims that no replay could check, as soon as the recorder is
attached.
"""
