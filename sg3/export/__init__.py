"""Networks for other programs: ONNX, torch.export, and the layouts of other code bases."""
