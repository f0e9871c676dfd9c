"""What the service tells of itself: metrics, the log, traces, and who is told of what it did."""
