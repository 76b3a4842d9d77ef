"""What the recorder attaches to objects of the training while it records: to the optimizer, the loss scaler and the network."""
