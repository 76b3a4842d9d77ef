"""The processes of a run together: how they start, what they tell each other, who is gone, whether all hold the same."""
