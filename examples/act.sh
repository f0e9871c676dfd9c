#!/bin/sh
# Ask for an action from a shell, with curl.
#
#   sh examples/act.sh http://127.0.0.1:8000
set -eu
address=${1:-http://127.0.0.1:8000}

# --fail-with-body: a refusal is an exit code other than 0, and its reason is still printed.
ask() { curl --silent --show-error --max-time 1 --fail-with-body --write-out "\n" "$@"; }

ask "$address/health/ready"
ask --json '{"state":[0,0,0.05,0],"seq":1}' "$address/act"
ask --json '{"states":[[0,0,0.05,0],[0,0,-0.05,0]]}' "$address/act/batch"
ask --json '{"state":[0,0,0.05]}' "$address/act" || echo "refused, as it should be"
