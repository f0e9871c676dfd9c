"""The desk: loads a bundle and answers posted states. Knows nothing of training, and starts where torch is not installed."""
