"""The loops. Each module trains the job in one way: `python -m tests.bench.loops.NAME` waits for the signal of each epoch."""
