"""Image files become pixels here, within limits of kind, size and memory, and are kept decoded for the next run."""
