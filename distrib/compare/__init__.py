"""Runs side by side: `python -m distrib.compare RUN RUN…`."""
