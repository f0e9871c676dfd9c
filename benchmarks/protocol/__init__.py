"""Other people's clients of the Open Inference Protocol, in environments of their own."""
