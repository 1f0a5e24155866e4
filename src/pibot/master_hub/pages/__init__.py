"""The pages that a browser shows: their routes, and what the templates are given.

Start reading at :mod:`pibot.master_hub.pages.routes`.
"""
