# The two commands: `make up` and `make test`. `make` alone lists them all.
.DEFAULT_GOAL := help
.PHONY: help up down demo test lint format chaos bench picture lock audit clean

help: ## show this
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 14

up: ## put a fleet of four machines on this computer, provision it with ansible/site.yml, and give it a job (JOB="...")
	@scripts/bootstrap.sh ansible .venv-ansible
	@scripts/lab/up.sh

down: ## remove every trace of what `make up` made
	@scripts/lab/down.sh --images

demo: ## run a whole fleet on this computer, with an example job (ONCE=1: end when the job has)
	@scripts/bootstrap.sh runtime
	@.venv/bin/python -m pibot demo $(if $(filter-out 0,$(ONCE)),--once)

test: ## lint, then every test (ARGS="-k name": just those, on one Python; NO_LAB=1 leaves the lab out)
	@scripts/bootstrap.sh dev
	@scripts/lint.sh
	@scripts/test.sh $(ARGS)

lint: ## ruff, mypy, ansible-lint, yamllint
	@scripts/bootstrap.sh dev
	@scripts/lint.sh
	@scripts/bootstrap.sh ansible .venv-ansible
	@scripts/lint-ansible.sh

format: ## let ruff format and sort
	@scripts/bootstrap.sh dev
	@.venv/bin/ruff check --fix-only .
	@.venv/bin/ruff format .

chaos: ## kill, stop, cut off and starve a fleet while it works on 300 jobs (SEED=1 JOBS=300: as it was with that seed)
	@scripts/bootstrap.sh dev
	@.venv/bin/python -m chaos $(if $(SEED),--seed $(SEED)) $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

bench: ## measure against other task queues and write benchmarks/results.md
	@scripts/bootstrap.sh dev
	@.venv/bin/python -m benchmarks

picture: ## take the README's picture anew: a fleet at work, in a real browser
	@scripts/bootstrap.sh dev
	@PIBOT_PICTURE=docs/dashboard.png .venv/bin/python -m pytest -q tests/end_to_end/test_picture.py

lock: ## resolve requirements/*.txt anew (UPGRADE=1 takes the newest)
	@scripts/lock.sh $(if $(filter-out 0,$(UPGRADE)),--upgrade)

audit: ## ask PyPI for known vulnerabilities of everything that is locked (AUDIT_SERVICE=osv asks osv.dev)
	@scripts/audit.sh

clean: ## remove the environments and what the tools left
	rm -rf .venv .venv-* .venv.lock build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
