"""Model folders for other runtimes: ONNX, OpenVINO, GGUF, sentence-transformers and PyLate."""
