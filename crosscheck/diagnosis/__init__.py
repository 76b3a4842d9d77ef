"""Naming what went wrong: the mistakes that are known of each formula, and which of them explains a record. Never imports torch."""
