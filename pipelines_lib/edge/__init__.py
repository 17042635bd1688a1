"""A model on a device: what an operator releases, and what the device runs with numpy, ONNX Runtime and cryptography alone."""
