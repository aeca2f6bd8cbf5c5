# SPDX-License-Identifier: GPL-3.0-or-later
# Process 1 of a replica's container: sh run.sh COMMAND...
#
# It ends as the command ends, but for a replica that was told to end (stop.py): mpirun answers many a good end with
# exit code 1, and a unit that was stopped must not count as failed.

# What a server takes only with a word (@word@ of an option) it takes from nobody: each start makes a new one and tells it
# to the server alone.

word=$(cat /proc/sys/kernel/random/uuid)
for argument; do
    shift
    case $argument in
    *=@word@) argument=${argument%@word@}$word ;;
    esac
    set -- "$@" "$argument"
done

trap 'kill -TERM "$child"' TERM INT
"$@" &
child=$!

# A signal ends the wait, not the command.
while :; do
    wait "$child"
    status=$?
    kill -0 "$child" 2>/dev/null || break
done

[ -e "${state:-/tmp}/.stopping" ] && exit 0
exit "$status"
