"""What is attached to the optimizer, the loss scaler and the network, to be told what they do."""
