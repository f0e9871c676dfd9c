"""Operations, measured: what it costs to count, log, trace, ask for keys, record and reload."""
