# SPDX-License-Identifier: GPL-3.0-or-later
# Ends a replica that is trtllm-serve from within its container, which ends this too: sh -s SECONDS < serve_stop.sh
#
# The server takes no more connections, and waits for the answers that it is giving, for as long as they take. So many
# seconds they get. The host hands this to the container as it stops it.

state=${state:-/tmp}
# From here on the probe does not judge, and an end is no failure.
: > "$state/.stopping"
# The first process hands the signal on to the server.
kill -TERM "${init:-1}"
sleep "$1"
echo "stop: not ended after $1 s; what is in flight ends here"
kill -KILL -1
