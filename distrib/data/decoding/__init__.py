"""Image files become pixels here, within limits of kind, size and memory, and are kept decoded for the next run.

`image.py` decodes one image and `decoder.py` many, which share the memory that `room.py` hands out; `image_cache.py` keeps the
pixels.
"""
