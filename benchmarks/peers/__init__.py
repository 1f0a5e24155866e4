"""The same no-op work in each peer. These modules run in ``.venv-bench``, where PiBot is not installed.

Each is what its library's own tutorial shows: an application, a task that returns at once, and ``call``, which
submits one and waits for its result. The address of Redis comes from the environment, because the libraries' own
commands import the module to find the tasks.
"""
