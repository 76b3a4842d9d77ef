"""Names of options that the recorder adds to those of a parameter group: what the loop's own objects said of a step.

None of them is a name that torch or an optimizer uses. Imports neither JAX nor torch.
"""

CLAIMED_RATE = "lr claimed"
"""The rate that the group should have, from a copy of the scheduler that is stepped once for each claimed step."""
TIMES_STEPPED = "scheduler steps"
"""How often the loop had stepped its scheduler by then, where nobody said how often it is to do so; in the first group."""
AVERAGED = "updates averaged"
"""How many updates the moving average has seen when the step is over; in the first group."""
CLIP_NORM = "clip_norm told"
"""The norm at which the loop's own call clipped; None: it did not; NaN: nobody said, or no claim can hold it. First group."""
CLIP_VALUE = "clip_value told"
"""The same of the value at which every element was clamped."""
