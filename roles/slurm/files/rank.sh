# SPDX-License-Identifier: GPL-3.0-or-later
# One rank of a replica, as process 1 of its container: sh rank.sh SLOT
#
# It runs what server.sh beside it says, and ends as that ends. The first rank is asked for a token every so often, as a
# replica of a host is (probe.sh); where it is broken it is killed, the step ends, and the job starts all ranks anew.

here=$(dirname "$0")
slot=$1
state=$(mktemp -d)
init=$$
export state init
. "$here/server.sh"

stop() {
    : > "$state/.stopping"
    kill -TERM "$child"
}

serve &
child=$!
trap stop TERM INT

# The lock of task.sh; elsewhere Slurm ends the rank itself.
if [ -e /run/trtllm.lock ]; then
    { flock /run/trtllm.lock true; kill -KILL "$child"; } &
fi

watch() {
    until sh "$here/probe.sh" start $models; do
        kill -0 "$child" || return
        sleep 1
    done
    while sleep "$interval"; do
        sh "$here/probe.sh" steady $models || { kill -KILL "$child"; return; }
    done
}
[ "$SLURM_PROCID" != 0 ] || watch &

while :; do
    wait "$child"
    status=$?
    kill -0 "$child" 2>/dev/null || break
done
exit "$status"
