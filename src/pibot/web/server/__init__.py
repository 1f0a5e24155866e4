"""The HTTP server under both Flask apps: cheroot, with our own intake in front of its threads.

It knows nothing of Flask, keys or PiBot's messages. Start reading at :mod:`pibot.web.server.server`.
"""
