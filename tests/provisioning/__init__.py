"""What Ansible runs, without Ansible."""
