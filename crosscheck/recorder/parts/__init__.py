"""How rows and step records become a part of the trace.

They wait in `pending.py` until a part is due. `row_blocks.py` then lays the rows of each sample out tensor by tensor
(`series.py`), and `journal.py` has the part written, in a thread beside the training where it can.
"""
