"""``make chaos``: a real fleet whose parts are killed, stopped, cut off and starved of disk while it works on jobs."""
