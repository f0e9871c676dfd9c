"""What callers of three service processes behind nginx see while things go wrong."""
