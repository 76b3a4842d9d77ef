"""From gradients to weights: optimizer, learning-rate schedule, number formats, and the update that joins them."""
