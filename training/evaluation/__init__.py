"""How good a policy is: greedy episodes, the robustness evaluation beside an LQR, and the gate."""
