"""From a finished training run to a bundle: files, parity, model card and pictures."""
