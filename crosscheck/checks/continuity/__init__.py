"""Does each step begin where the last one ended, and the first one where its rule begins?

`continuity.py` follows the tensors from step to step. `left_behind.py` remembers for it what each row left, `unsampled.py`
compares the digests of what no row shows, `idle.py` finds what a step should not have moved, `allowed_changes.py` knows what may
change between steps, and `share_held.py` counts what was compared. `starts.py` looks at the first row of each tensor, and
`replaced_tensors.py` at tensors that come and go.
"""
