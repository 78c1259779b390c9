"""Many clips on the processes and machines of a Ray cluster (extra ``cluster``).

This process, the driver, plans and joins; workers (:mod:`.worker`), a process each, do the work: they look through
inputs, restore shots, measure clips. The driver hands errands to whichever worker is free (:mod:`.crew`) and hands
them out again where a worker dies. Files that a worker cannot see are shipped to it, and what it makes is sent back
(:mod:`.cargo`).
"""
