"""The Open Inference Protocol v2: what a request means and what it is answered."""
