"""The policy: a bundle's artifact, run by a backend, and what it takes to be served."""
