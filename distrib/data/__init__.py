"""Images: where they come from, in what order they are used, how they are augmented.

`sources` reads a data set into memory, as a `Dataset` (`images.py`); where its images are files, `decoding` makes pixels of them.
`batches` says which of the images belong to a step, and varies them. `batches` knows nothing of the other two.
"""
