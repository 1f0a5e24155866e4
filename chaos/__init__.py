"""``make chaos``: a real fleet works on jobs while its parts are killed, stopped and cut off, lie, or have a full disk.

Start reading at :mod:`chaos.run`. :mod:`chaos.schedule` draws the faults, :mod:`chaos.evidence` checks the outcome.
"""
