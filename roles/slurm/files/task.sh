# SPDX-License-Identifier: GPL-3.0-or-later
# One rank of a Slurm step in a container of podman: sh task.sh OPTION... IMAGE COMMAND...
#
# Slurm does not see the container, whose parent is none of the step's processes, and so would leave it behind, on the
# GPUs, however the job ends. This process Slurm does see. It holds a lock for as long as it lives, which the kernel
# takes from it even where it is killed; process 1 of the container (rank.sh) waits for the lock, and then ends.

lock=$(mktemp "${TMPDIR:-/tmp}/trtllm-$SLURM_JOB_ID-XXXXXXXX") || exit 1
exec 9> "$lock"
flock 9 || exit 1

# The rank finds Slurm's PMIx server by variables. They are passed by name, so that no value is on a command line.
for name in $TRTLLM_PASSED TRTLLM_ADDRESS $(env | sed -n 's/^\(\(PMIX\|PMI\|SLURM\)_[A-Za-z0-9_]*\)=.*/\1/p'); do
    set -- "--env=$name" "$@"
done
# As indices of the node: CUDA_VISIBLE_DEVICES may count anew within a control group.
for gpu in $(echo "${SLURM_STEP_GPUS:-$SLURM_JOB_GPUS}" | tr , ' '); do
    set -- "--device=nvidia.com/gpu=$gpu" "$@"
done

# The PMIx server listens on 127.0.0.1 of the node.
podman run --rm --replace --name "trtllm-$SLURM_JOB_ID-$SLURM_STEP_ID-$SLURM_PROCID" \
    --label "trtllm.fleet.slurm-job=$SLURM_JOB_ID" --network=host --pull=never --security-opt=label=disable \
    --security-opt=no-new-privileges --volume "$lock:/run/trtllm.lock" "$@" 9>&- &
child=$!
trap 'kill -TERM "$child"' TERM INT

# Nobody ends this process where Slurm's daemon is gone from the node (current.sh). The more ranks, the rarer each one asks:
# a job asks less than once a second.
{
    while sleep $((15 + ${SLURM_NTASKS:-1})) && kill -0 $$; do
        sh "$(dirname "$0")/current.sh" || kill -KILL $$
    done
} > /dev/null 2>&1 9>&- &
asks=$!

# A signal ends the wait, not the container.
while :; do
    wait "$child"
    status=$?
    kill -0 "$child" 2>/dev/null || break
done
kill "$asks"
rm -f "$lock"
exit "$status"
