"""The contract between training and service: what a bundle is, and the bundles that ship with the project."""
