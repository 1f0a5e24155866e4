#!/usr/bin/env bash
# Starts a whole fleet on this computer and leaves it running: four hosts that boot like Raspberry Pis, provisioned by the
# same site.yml as real ones, and a first job through the master. Needs the environment .venv-ansible.
set -euo pipefail
# shellcheck source=scripts/lab/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

job=${JOB:-"Report the system's temperature, memory and load; count the files in /usr/bin; run \`uname -sm\`; \
sleep for 2 seconds; calculate 6 * 7; then write the results to report.txt"}
export PATH=$LAB_ROOT/.venv-ansible/bin:$PATH
export ANSIBLE_CONFIG=$LAB_ROOT/ansible/ansible.cfg
inventory=$LAB_ROOT/molecule/lab/inventory.py
on_master() { ssh -T -F "$LAB_STATE/ssh_config" pibot-master "$@"; }

# Ansible's processes have no terminal for sudo to ask for a password.
[ "$(id -u)" -eq 0 ] || setsid --wait sudo -n true </dev/null 2>/dev/null ||
    die "sudo asks for a password, which a playbook can't type: run 'sudo make up', and later 'sudo make down'."

# create.yml runs these two too, but would not show their progress.
"$LAB_ROOT/scripts/lab/host.sh"
"$LAB_ROOT/scripts/lab/images.sh"

say "booting the hosts"
mkdir -p "$LAB_STATE"
ansible-playbook -i "$inventory" "$LAB_ROOT/molecule/lab/create.yml" >"$LAB_STATE/create.log" 2>&1 || {
    tail -n 40 "$LAB_STATE/create.log" >&2
    die "the hosts could not be created: see the lines above."
}
say "provisioning them with ansible/site.yml"
(cd "$LAB_ROOT/ansible" && ansible-playbook -i "$inventory" site.yml)

master=$(ssh -F "$LAB_STATE/ssh_config" -G pibot-master | awk '$1 == "hostname" { print $2 }')
key=$(<"$LAB_STATE/secrets/api_key")
say "a job for the fleet: $job"
on_master "pibot run $(printf %q "$job") 2>&1" || die "the job failed: the fleet stays up, so look at its dashboard."

cat <<END

The fleet is up.
  dashboard   http://$master:5000/dashboard (log in with the key)
  key         $key
  a host      ssh -F ${LAB_STATE#"$PWD/"}/ssh_config worker-1
  a job       curl -H 'Authorization: Bearer $key' -H 'Prefer: wait=60' -d '{"description": "…"}' http://$master:5000/task
  remove it   make down
END
