"""The networks that a run may train: three of the project's own, and any callable that returns a `torch.nn.Module`."""
