"""Who may call, and over which connection: keys and TLS."""
