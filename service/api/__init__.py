"""What a request means, whatever brought it: over REST, a stream or gRPC."""
