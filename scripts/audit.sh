#!/bin/sh
# Ask for known vulnerabilities of everything that is locked: pip-audit, over each lock, for the Python that runs it. This
# takes the internet: PyPI's own service by default; AUDIT_SERVICE=osv asks osv.dev instead.
set -eu

cd "$(dirname -- "$0")/.."
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3 -m venv "$tools"
"$tools/bin/python" -m pip install -qq --disable-pip-version-check pip-audit

status=0
for lock in requirements/*.txt; do
    echo "Auditing $lock ..."
    # The locks hold hashes of everything, so nothing has to be resolved or installed. Strict: an index that knows nothing of
    # vulnerabilities, as a mirror may, would else pass for one that has found none.
    "$tools/bin/pip-audit" --strict --disable-pip --require-hashes --progress-spinner off \
        --vulnerability-service "${AUDIT_SERVICE:-pypi}" -r "$lock" || status=1
done
exit $status
