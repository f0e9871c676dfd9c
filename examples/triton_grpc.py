"""Ask for actions with tritonclient over gRPC. The service listens for gRPC with --grpc-port.

pip install 'tritonclient[grpc]'; python examples/triton_grpc.py [host:port]
"""

import sys

import numpy as np
import tritonclient.grpc as triton

client = triton.InferenceServerClient(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001")
model = client.get_model_repository_index().models[0].name
states = np.array([[0, 0, 0.05, 0], [0, 0, -0.05, 0]], np.float32)
states_input = triton.InferInput("state", list(states.shape), "FP32")
states_input.set_data_from_numpy(states)
answer = client.infer(model, [states_input], client_timeout=1)
print("actions", answer.as_numpy("action").tolist())
print("q_values", answer.as_numpy("q_values").tolist())
client.close()
