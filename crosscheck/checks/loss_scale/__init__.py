"""Is each loss scale the one that torch.amp.GradScaler makes of the steps that were applied?"""
