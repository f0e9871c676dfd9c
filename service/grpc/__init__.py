"""The Open Inference Protocol over gRPC. The `inference_pb2` modules are made by `make proto`."""
