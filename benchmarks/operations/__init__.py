"""Operations, measured: what running the service costs, and what it survives."""
