#!/bin/bash
# Train on this machine, the chief, and on others that ssh reaches, each with a clone and its data
# (git pull, dvc pull) in a folder of the same name. The first name is that of this machine, as the
# others know it:
#
#     recipes/cluster/ssh.sh host0 host1 host2
#
set -euo pipefail
export PATH="$PWD/.venv/bin:$PATH"

port=${PORT:-12345}
workers=
for host in "$@"; do
    workers="$workers${workers:+, }\"$host:$port\""
    port=$((port + 1))
done
config() { # of machine number $1
    echo "{\"cluster\": {\"worker\": [$workers]}, \"task\": {\"type\": \"worker\", \"index\": $1}}"
}

index=0
for host in "${@:2}"; do
    index=$((index + 1))
    ssh "$host" "cd '$PWD' && TF_CONFIG='$(config $index)' .venv/bin/python -m stages.train" &
done
TF_CONFIG=$(config 0) dvc repro train
wait
