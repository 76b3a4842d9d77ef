"""Images in parquet files: `data.source = parquet:PATH`, a folder, and `data.source = hf:OWNER/NAME`, a data set of the hub.

`files.py` says by their names which files are which split, and `columns.py` which columns are images and labels. `table.py` reads
these, `parquet.py` makes a data set of them, and `hub.py` finds or fetches the files that the hub has.
"""
