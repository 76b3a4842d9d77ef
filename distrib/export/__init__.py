"""The network of a run as files for other programs: a torch.export program, an ONNX model, and a card that describes them."""
