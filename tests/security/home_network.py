"""A home with public addresses, in network namespaces of its own: a worker's machine and a NAS on its link.

``python -m tests.security.home_network URL [open]`` fetches one page as the worker does, and prints it or the error.
With ``open`` it does so without knowing the home. The web servers of both machines answer with ``secret``.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from skills.web_fetch.addresses import AddressGuard
from skills.web_fetch.home import home_networks
from skills.web_fetch.tools import FetchLimits, _fetch

from pibot.errors import ToolError

WORKER = ("2606:4700:aaaa:1::5/64", "8.8.8.5/24")
NAS = ("2606:4700:aaaa:1::9/64", "8.8.8.9/24")
PORT = 8080


class Secret(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(b"secret")

    def log_message(self, *_: object) -> None: ...


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6  # and IPv4, as mapped addresses


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


def connect(interface: str, addresses: tuple[str, ...]) -> None:
    ip("link set lo up")
    for address in addresses:
        ip(f"addr add {address} dev {interface}" + (" nodad" if ":" in address else ""))
    ip(f"link set {interface} up")


def nas() -> None:
    """Wait for the cable, and serve until the parent closes the pipe."""
    say("ready for the cable")
    sys.stdin.readline()
    connect("nas", NAS)
    server = Server(("::", PORT), Secret)
    Thread(target=server.serve_forever, daemon=True).start()
    say("serving")
    sys.stdin.read()


def fetch(url: str, *, knows_home: bool) -> str:
    guard = AddressGuard(home=home_networks if knows_home else lambda: ())
    try:
        return asyncio.run(_fetch(url, "text", 1000, guard, FetchLimits()))
    except ToolError as exc:
        return str(exc)


def main() -> None:
    if sys.argv[1] == "nas":
        nas()
        return
    ip("link add worker type veth peer name nas")
    command = ["unshare", "--net", sys.executable, "-m", "tests.security.home_network", "nas"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdout.readline()
        ip(f"link set nas netns {other.pid}")
        connect("worker", WORKER)
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "serving\n"
        Thread(target=Server(("::", PORT), Secret).serve_forever, daemon=True).start()
        say(fetch(sys.argv[1], knows_home="open" not in sys.argv))
        other.stdin.close()


if __name__ == "__main__":
    main()
