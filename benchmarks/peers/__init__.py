"""The same no-op task in each peer. These modules run in ``.venv-bench``, where PiBot is not installed.

Each follows its library's tutorial: an application, a task that returns at once, and ``call``, which submits a task and
waits for its result. The address of Redis comes from the environment, since the libraries' own commands import the
module to find the tasks.
"""
