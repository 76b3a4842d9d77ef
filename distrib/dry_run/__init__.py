"""`twinstep train RECIPE --dry-run`: what a run would be and cost, from a few real steps that leave nothing behind."""
