"""Connections to the service: how they are made, kept open and lent to calls."""
