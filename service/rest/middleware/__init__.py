"""What stands around all endpoints: keys, limits, request ids and the table of endpoints."""
