"""The service against the limit of its HTTP server and against peers."""
