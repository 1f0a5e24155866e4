"""``make chaos``: kill, stop and cut off the parts of a real fleet and fill its disk, while it works on jobs.

Start reading at :mod:`chaos.run`. :mod:`chaos.schedule` draws the faults, :mod:`chaos.evidence` checks the outcome.
"""
