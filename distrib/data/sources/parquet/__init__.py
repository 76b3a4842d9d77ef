"""Images in parquet files: `data.source = parquet:PATH`, a folder, and `data.source = hf:OWNER/NAME`, a data set of the hub.

`files.py` says by their names which files are which split, and `columns.py` which columns are images and labels. `parquet.py` reads
them, and `hub.py` has it read what the hub has of a data set.
"""
