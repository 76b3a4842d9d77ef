"""Names what went wrong: the known mistakes of each formula, and which of them explains a record. Never imports torch."""
