"""Planted mistakes and correct runs by a generator: which optimizer, which numbers and which mistake are drawn from a seed."""
