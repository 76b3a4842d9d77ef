"""The Twinstep trainer: data-parallel CIFAR training with fused optimizers under Accelerate."""
