"""Images: where they come from, in what order they are used, how they are augmented."""
