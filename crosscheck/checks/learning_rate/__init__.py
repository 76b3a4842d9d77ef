"""Is each learning rate that was used the one that the claimed schedule gives?

`learning_rate.py` is the check, and gathers the rates. `rates.py` compares them with a claim (`claimed_rates.py`), which is a
formula (`schedules.py`) or a table. Where rates are wrong it tries the usual mistakes (`mistaken_counts.py`,
`fractional_epochs.py`). Of a scheduler that nobody gave it asks whether it is stepped less often on purpose
(`found_schedulers.py`).
"""
