"""Ask for actions with tritonclient over HTTP.

A program that calls Triton, KServe or MLServer calls this service as it is.

pip install 'tritonclient[http]'; python examples/triton_http.py [host:port]
"""

import sys

import numpy as np
import tritonclient.http as triton

client = triton.InferenceServerClient(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000")
model = client.get_model_repository_index()[0]["name"]
states = np.array([[0, 0, 0.05, 0], [0, 0, -0.05, 0]], np.float32)
states_input = triton.InferInput("state", list(states.shape), "FP32")
states_input.set_data_from_numpy(states)
answer = client.infer(model, [states_input])
print("actions", answer.as_numpy("action").tolist())
print("q_values", answer.as_numpy("q_values").tolist())
client.close()
