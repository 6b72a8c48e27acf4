"""How fast this machine answers: the engine against what one would do without it, in one process, round by round.

Ratios are what is compared, not seconds: both sides of one run alternately on the same machine. Greedy; nothing ends early unless said.
"""
