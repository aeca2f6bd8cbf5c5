# SPDX-License-Identifier: GPL-3.0-or-later
# Ends a replica from within its container, which ends this script too: sh stop.sh SECONDS HTTP_PORT
#
# Every tritonserver is asked, and not mpirun: that would kill its ranks after a moment. Requests in flight have so many
# seconds to finish. Connections that clients keep open for their next request are closed meanwhile, as Triton would
# wait for them, and go on to answer on them.

signal_servers() {
    for comm in /proc/[0-9]*/comm; do
        read -r name < "$comm" && [ "$name" = tritonserver ] || continue
        server=${comm%/comm}
        kill "-$1" "${server#/proc/}"
    done 2>/dev/null
}

# The probe must not judge from here on, and the end is not a failure.
touch "${state:-/tmp}/.stopping"
signal_servers TERM
python3 -I -S "${0%/*}/close_idle.py" "$2" &
sleep "$1"
echo "stop: requests were in flight for $1 s; they end here"
signal_servers KILL
sleep 10
