"""The cross-check of a run: recorded by rank 0 while it trains, replayed by another process when it is over."""
