#!/usr/bin/env python3
"""Dynamic Ansible inventory of the lab: the guide's four machines and one outside host.

It is a program because one computer may run two labs at once (`make up` and `molecule test`), each with its own name
and network:

    PIBOT_LAB          the name (pibot-lab)
    PIBOT_LAB_NETWORK  the first three octets of its /24 network (10.213.10)

Groups and host names are those of ansible/inventory.ini; the last octets are the guide's.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# host: (last octet, Debian release, group). Mixed releases, as in a real home.
HOSTS = {
    "pibot-master": (113, "trixie", "master"),
    "worker-1": (66, "bookworm", "workers"),
    "worker-2": (67, "bullseye", "workers"),
    "worker-3": (68, "trixie", "workers"),
    # Not in the fleet: another machine in the same home, which must not reach the workers.
    "outside": (200, "bookworm", "outsiders"),
}


def inventory(name: str, network: str) -> dict[str, object]:
    """Return the lab's hosts as `ansible-inventory --list` prints them.

    Args:
        name: the lab's name, which the containers' names begin with.
        network: the first three octets of its /24 network.
    """
    state = ROOT / ".cache" / "lab" / name
    hostvars = {
        host: {
            "ansible_host": f"{network}.{octet}",
            "lab_container": f"{name}-{host}",
            "lab_release": release,
        }
        for host, (octet, release, _) in HOSTS.items()
    }
    groups = {
        group: {"hosts": [host for host, (_, _, its_group) in HOSTS.items() if its_group == group]}
        for group in dict.fromkeys(group for _, _, group in HOSTS.values())
    }
    return {
        "_meta": {"hostvars": hostvars},
        "all": {
            "children": ["lab"],
            "vars": {"lab_name": name, "lab_network": network, "lab_state": str(state)},
        },
        "lab": {
            "children": list(groups),
            "vars": {
                "ansible_user": "pi",
                "ansible_ssh_private_key_file": f"{state}/id_ed25519",
                # Not the user's own ~/.ssh/config, which could change how Ansible reaches the lab.
                "ansible_ssh_common_args": f"-F {state}/ssh_config",
                # In the lab's folder, so that down.sh finds the open connections and closes them with the lab.
                "ansible_control_path_dir": f"{state}/cp",
                # Also in the lab's folder, which down.sh removes.
                "pibot_secrets_dir": f"{state}/secrets",
                # The offline model needs no key.
                "pibot_model": "rehearsal",
                "pibot_tls": os.environ.get("PIBOT_LAB_TLS") == "1",
                "pibot_env": {
                    # A worker fetches nothing from its own network by default, but the lab serves its test page there.
                    "PIBOT_WEB_ALLOW": f"{network}.0/24",
                    # The default is longer, for Wi-Fi; here the failover tests would wait for it.
                    "PIBOT_LEASE_SECONDS": "15",
                },
            },
        },
        **groups,
    }


if __name__ == "__main__":
    lab = inventory(os.environ.get("PIBOT_LAB", "pibot-lab"), os.environ.get("PIBOT_LAB_NETWORK", "10.213.10"))
    json.dump(lab, sys.stdout, indent=2)
