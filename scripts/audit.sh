#!/bin/sh
# Look up known vulnerabilities of all locked packages: run pip-audit on each lock, for the Python that runs it. Needs the
# internet. It asks PyPI's service; with AUDIT_SERVICE=osv it asks osv.dev.
set -eu

cd "$(dirname -- "$0")/.."
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3 -m venv "$tools"
"$tools/bin/python" -m pip install -qq --disable-pip-version-check pip-audit

status=0
for lock in requirements/*.txt; do
    echo "Auditing $lock ..."
    # The locks have the hashes of all packages, so pip-audit need not resolve or install any. --strict: otherwise an index
    # without data on vulnerabilities, such as a mirror, would look like one that has found none.
    "$tools/bin/pip-audit" --strict --disable-pip --require-hashes --progress-spinner off \
        --vulnerability-service "${AUDIT_SERVICE:-pypi}" -r "$lock" || status=1
done
exit $status
