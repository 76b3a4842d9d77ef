"""Random files in every format that the trainer reads: `python -m tests.fuzz --minutes 60 [--seed 0]`."""
