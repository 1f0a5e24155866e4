# The two main commands are `make up` and `make test`. `make` alone lists all.
.DEFAULT_GOAL := help
.PHONY: help up down demo test lint format chaos bench picture lock audit clean

help: ## list these commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 14

up: ## start a fleet of four containers here, provision it with ansible/site.yml, and run a job (JOB="...")
	@scripts/bootstrap.sh ansible .venv-ansible
	@scripts/lab/up.sh

down: ## remove everything that `make up` made
	@scripts/lab/down.sh --images

demo: ## run a whole fleet on this computer with an example job (ONCE=1: end after the job)
	@scripts/bootstrap.sh runtime
	@.venv/bin/python -m pibot demo $(if $(filter-out 0,$(ONCE)),--once)

test: ## lint, then run every test (ARGS="-k name": only these, on one Python; NO_LAB=1: without the lab)
	@scripts/bootstrap.sh dev
	@scripts/lint.sh
	@scripts/test.sh $(ARGS)

lint: ## run ruff, mypy, bandit, ansible-lint and yamllint
	@scripts/bootstrap.sh dev
	@scripts/lint.sh
	@scripts/bootstrap.sh ansible .venv-ansible
	@scripts/lint-ansible.sh

format: ## format the code and sort the imports with ruff
	@scripts/bootstrap.sh dev
	@.venv/bin/ruff check --fix-only .
	@.venv/bin/ruff format .

chaos: ## run 300 jobs while parts of the fleet are killed, stopped and cut off (SEED=1 JOBS=300: repeat a run)
	@scripts/bootstrap.sh dev
	@.venv/bin/python -m chaos $(if $(SEED),--seed $(SEED)) $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

bench: ## measure PiBot and other task queues, and write benchmarks/results.md
	@scripts/bootstrap.sh dev
	@.venv/bin/python -m benchmarks

picture: ## take the README's picture of a fleet at work, in a real browser
	@scripts/bootstrap.sh dev
	@PIBOT_PICTURE=docs/dashboard.png .venv/bin/python -m pytest -q tests/end_to_end/test_picture.py

lock: ## resolve requirements/*.txt again (UPGRADE=1: with the newest versions)
	@scripts/lock.sh $(if $(filter-out 0,$(UPGRADE)),--upgrade)

audit: ## look up known vulnerabilities of all locked packages at PyPI (AUDIT_SERVICE=osv: at osv.dev)
	@scripts/audit.sh

clean: ## remove the environments and the files of the tools
	rm -rf .venv .venv-* .venv.lock build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
