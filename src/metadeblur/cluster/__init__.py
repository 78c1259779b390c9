"""Many clips on the processes and machines of a Ray cluster (extra ``cluster``).

This process, the driver, plans and joins; workers, a process each, look through inputs, restore shots, measure clips.
The driver hands tasks to whichever worker is free (:mod:`.worker_pool`); files go to and fro where they must
(:mod:`.files`).
"""
