"""Random files in every format that the trainer and the replay read: `python -m tests.fuzz --minutes 60 [--seed 0]`."""
