# SPDX-License-Identifier: GPL-3.0-or-later
# Whether a replica that is trtllm-serve serves, asked within its container: sh serve_probe.sh start|steady MODEL
#
# Ends with 0 when the model gives a token, when it is busy, or when the replica was told to end; else with 1, and the
# journal of the service says why. Its settings are variables:
#   url            the server
#   servers        those that do its work, where it is one that stands before others
#   body           the smallest request
#   token_timeout  seconds to wait for a token while the server gets nothing done
#   hang_timeout   seconds without any sign of life of the server
#   retries        wrong answers in a row, a second apart, that are believed
#
# Up to some release /health says 200 whatever happens; later it says 503, for ever, once the executor is gone. So a token
# decides. A busy server gives none for a while: then its iterations move, of which /metrics tells those since it was last
# asked. It is asked here only while no token comes, as whoever reads it takes them from the next.

# Where things are; otherwise only in tests.
state=${state:-/tmp}
init=${init:-1}
log=${log:-/proc/1/fd/2}
quick=${quick:-5} # seconds for a token before anything else is looked at
answer_file=$state/.answer.$$
trap 'rm -f "$answer_file"' EXIT

get() {
    curl -gs --noproxy '*' -m "$@"
}

# Into the journal too, through the output of the server; the same words only once.
say() {
    [ "$(cat "$state/.said" 2>/dev/null)" = "$*" ] && return
    echo "$*" > "$state/.said"
    echo "probe: $*"
    { echo "probe: $*" > "$log"; } 2>/dev/null
}

# judge CODE_OF_CURL ANSWER: 0 for a token, 28 for none yet, 1 for anything else, which is then the problem.
judge() {
    case $1:$2 in
        0:*'"choices"'*) return 0 ;;
        28:*) problem="$model gives no token"; return 28 ;;
        0:*) problem="$model answers $(printf %.300s "$2")" ;;
        *) problem="$model gives no answer (curl ends with $1)" ;;
    esac
    return 1
}

post() {
    curl -gs --noproxy '*' -m "$1" -H 'Content-Type: application/json' -d "$body" "$url/v1/completions"
}

# ask SECONDS: as judge.
ask() {
    answer=$(post "$1")
    judge $? "$answer"
}

# Whether iterations were done since this was last asked.
worked() {
    moved=1
    # All are asked, so that each tells only of what it did since.
    for server in ${servers:-$url}; do
        case $(get 5 "$server/metrics") in *[0-9]*) moved=0 ;; esac
    done
    return "$moved"
}

# After a token that did not come soon. 0: it came, or the server is busy. 1: another answer. 2: it hangs.
wait_for() {
    now=$(date +%s)
    life=$((now - quick))
    deadline=$((now + token_timeout))
    worked
    job=
    while [ "$now" -lt "$deadline" ]; do
        if [ -z "$job" ]; then
            post $((deadline - now)) > "$answer_file" 2>/dev/null &
            job=$!
        fi
        sleep 1
        [ -e "$state/.stopping" ] && break
        if ! kill -0 "$job" 2>/dev/null; then
            wait "$job"
            judge $? "$(cat "$answer_file")"
            code=$?
            [ "$code" = 28 ] || return "$code"
            job=
        fi
        left=$((life + hang_timeout - $(date +%s)))
        if get $((left > 5 ? 5 : left > 1 ? left : 1)) -o /dev/null "$url/health"; then
            life=$(date +%s)
            if worked; then
                forget "$job"
                return 0
            fi
        fi
        now=$(date +%s)
        if [ $((now - life)) -ge "$hang_timeout" ]; then
            problem="trtllm-serve has not answered for $hang_timeout s, not even to /health"
            return 2
        fi
    done
    forget "$job"
    problem="$model gave no token and got nothing done for $token_timeout s"
    return 2
}

forget() {
    [ -z "$1" ] || kill "$1" 2>/dev/null
}

# As wait_for.
token() {
    ask "$quick"
    code=$?
    [ "$code" = 28 ] || return "$code"
    wait_for
}

start() {
    tries=0
    until ask "$token_timeout"; do
        tries=$((tries + 1))
        [ -e "$state/.stopping" ] && exit 0
        if [ "$tries" -ge 100 ]; then
            # No answer is what a server gives that loads its model.
            case $problem in *curl*) ;; *) say "$problem" ;; esac
            exit 1
        fi
        sleep 0.2
    done
    exit 0
}

steady() {
    tries=0
    until token; do
        code=$?
        tries=$((tries + 1))
        [ -e "$state/.stopping" ] && exit 0
        if [ "$code" = 2 ] || [ "$tries" -ge "$retries" ]; then
            say "$problem"
            exit 1
        fi
        sleep 1
    done
    exit 0
}

[ -e "$state/.stopping" ] && exit 0
model=$2
"$1"
