"""The questions that a replay puts to a trace, one file each. Never imports torch."""
