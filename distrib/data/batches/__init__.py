"""Which images a step takes, and what is done to them before the network sees them.

`plan.py` says which images are each rank's, and `batches.py` has them augmented, mixed and normalized. All of it is a pure
function of seed, epoch or step, and index: nothing has to be saved for a run that resumes.
"""
