"""What is measured against peers and limits, each in one run on one machine.

Tables go to docs/; raw results are not kept.
"""
