"""The command `twinstep`, which stands above the trainer and the cross-check: neither of them imports it."""
