"""What training writes and the service reads: the schema of a bundle, and the committed bundles."""
