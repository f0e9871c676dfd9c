"""How the service is called: what a call costs beside its peers, and whether a control loop keeps its deadline when things go wrong."""
