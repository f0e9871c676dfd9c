"""How many control loops a core holds, and what a number of loops needs."""
