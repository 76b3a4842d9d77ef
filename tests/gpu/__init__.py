"""The GPU kit: `python -m tests.gpu --out DIR` measures on one GPU all that this project says about GPUs.

It is made for a machine that is there for some minutes only: parts run in the order of their worth, each in a process of
its own, and the report is complete after each row. `--device cpu` rehearses it in small.
"""
