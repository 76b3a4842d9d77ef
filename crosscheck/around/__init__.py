"""What stands around the optimizer, judged: every check of a report but the optimizer's own. Never imports torch."""
