"""Which elements are recorded of a step, and how they are copied out of the optimizer's tensors.

`sampler.py` chooses the tensors and `columns.py` the elements of each, as many as the budget (`budget.py`) allows. The sampler
makes a reader for each sample (`reader.py`), which takes snapshots (`snapshot.py`), with digests (`digests.py`) of elements that
are not in the sample (`digest_ranges.py`).
"""
