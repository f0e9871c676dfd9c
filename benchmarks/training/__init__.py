"""Training, measured: speed and success of the recipes."""
