"""Tests, without Ansible, of what Ansible and the scripts run."""
