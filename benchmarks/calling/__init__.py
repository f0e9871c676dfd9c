"""How the service is called: what a call costs, and whether a control loop keeps its deadline."""
