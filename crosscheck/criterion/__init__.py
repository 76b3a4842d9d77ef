"""Says how far rounding may take a recorded number from the right one, by element or as found by trying. Never imports torch."""
