"""Images in NumPy arrays, `data.source = npz:PATH`.

`npy.py` reads one array, `files.py` finds the arrays of a file or folder by their names, and `arrays.py` makes images and labels
of them.
"""
