# SPDX-License-Identifier: GPL-3.0-or-later
# Whether a replica serves, asked within its container: sh probe.sh start|steady MODEL...
#
# Ends with 0 when the models give tokens, when they are busy, or when the replica was told to end; else with 1, and the
# journal of the service says why. Its settings are variables:
#   url, metrics_url   Triton's HTTP endpoint, and that of its metrics
#   body               the smallest request
#   token_timeout      seconds to wait for a token while Triton gets nothing done
#   hang_timeout       seconds without any sign of life of Triton
#   retries            wrong answers in a row, a second apart, that are believed
#
# Status codes tell nothing: Triton says ready while its Python processes are dead, and a refusal may come with 200.
# A server that is busy must not be taken for one that is broken. A broken one answers with an error at once. A hanging
# one does not answer at all, not even to what needs no model. One that answers this and gives no token may have a full
# queue or a long prompt: then its counters move. Where they stand still for as long as a token may take, it is stuck.

# Where things are; otherwise only in tests.
proc=${proc:-/proc}
state=${state:-/tmp}
init=${init:-1}
quick=${quick:-5} # seconds for a token before anything else is looked at
at_once=16
answer_file=$state/.answer.$$
wrong_file=$state/.wrong.$$
trap 'rm -f "$answer_file" "$wrong_file"' EXIT

get() {
    curl -gs --noproxy '*' -m "$@"
}

# Into the journal too, through the output of the server; the same words only once.
say() {
    [ "$(cat "$state/.said" 2>/dev/null)" = "$*" ] && return
    echo "$*" > "$state/.said"
    echo "probe: $*"
    for comm in "$proc"/[0-9]*/comm; do
        read -r name < "$comm" && [ "$name" = tritonserver ] && echo "probe: $*" > "${comm%/comm}/fd/2" && return
    done 2>/dev/null
}

# judge MODEL CODE_OF_CURL ANSWER: 0 for a token, 28 for none yet, 1 for anything else, which is then the problem.
judge() {
    case $2:$3 in
        0:*'"text_output"'*) return 0 ;;
        28:* | 0:*aximum\ queue\ size*) problem="$1 gives no token"; return 28 ;;
        0:*) problem="$1 answers $(printf %.300s "$3")" ;;
        *) problem="$1 gives no answer (curl ends with $2)" ;;
    esac
    return 1
}

# ask MODEL SECONDS: as judge.
ask() {
    answer=$(get "$2" -d "$body" "$url/v2/models/$1/generate")
    judge "$1" $? "$answer"
}

# What moves while a model works: requests that were answered, and TensorRT-LLM's iterations. Nothing where Triton
# does not tell. The models of one engine share their prefix.
progress() {
    case $1 in
        *tensorrt_llm_bls) models="${1%tensorrt_llm_bls}(tensorrt_llm|tensorrt_llm_bls|ensemble)" ;;
        *tensorrt_llm) models="$1(_bls)?|${1%tensorrt_llm}ensemble" ;;
        *ensemble) models="${1%ensemble}(tensorrt_llm|tensorrt_llm_bls|ensemble)" ;;
        *) models=$1 ;;
    esac
    get 5 "$metrics_url/metrics" \
        | grep -E '^nv_(inference_request_success|trt_llm_general_metrics.*"iteration_counter")' \
        | grep -E "model=\"($models)\""
}

# wait_for MODEL: after a token that did not come soon. 0: it came, or the model is busy. 1: another answer. 2: hangs.
wait_for() {
    now=$(date +%s)
    life=$((now - quick))
    deadline=$((now + token_timeout))
    before=$(progress "$1")
    job=
    while [ "$now" -lt "$deadline" ]; do
        if [ -z "$job" ]; then
            curl -gs --noproxy '*' -m $((deadline - now)) -d "$body" "$url/v2/models/$1/generate" \
                > "$answer_file" 2>/dev/null &
            job=$!
        fi
        sleep 1
        [ -e "$state/.stopping" ] && break
        if ! kill -0 "$job" 2>/dev/null; then
            wait "$job"
            judge "$1" $? "$(cat "$answer_file")"
            code=$?
            [ "$code" = 28 ] || return "$code"
            job=
        fi
        # Each look is a connection of its own, as one thread of Triton may be held up.
        left=$((life + hang_timeout - $(date +%s)))
        if get $((left > 5 ? 5 : left > 1 ? left : 1)) -o /dev/null "$url/v2/health/live"; then
            life=$(date +%s)
            after=$(progress "$1")
            if [ -n "$before" ] && [ -n "$after" ] && [ "$after" != "$before" ]; then
                forget "$job"
                return 0
            fi
        fi
        now=$(date +%s)
        if [ $((now - life)) -ge "$hang_timeout" ]; then
            problem="Triton has not answered for $hang_timeout s, not even to /v2/health/live"
            return 2
        fi
    done
    forget "$job"
    if [ -n "$before" ]; then
        problem="$1 gave no token and got nothing done for $token_timeout s"
        return 2
    fi
    problem="$1 gave no token within $token_timeout s"
    return 1
}

forget() {
    [ -z "$1" ] || kill "$1" 2>/dev/null
}

# tokens MODEL...: as wait_for.
tokens() {
    for model in "$@"; do
        ask "$model" "$quick"
        code=$?
        if [ "$code" = 28 ]; then
            wait_for "$model"
            code=$?
        fi
        [ "$code" = 0 ] || return "$code"
    done
}

# The Python processes of all models; a dead one has no command line.
processes() {
    grep -l '[p]ython_backend_stub' "$proc"/[0-9]*/cmdline 2>/dev/null
}

# Whether every model that Triton runs in Python has as many processes as instances. Sets the most instances of a model.
instances() {
    most=0
    names=$(get 5 -d '{"ready":true}' "$url/v2/repository/index" | grep -o '"name":"[^"]*"' | cut -d '"' -f 4)
    for name in $names; do
        config=$(get 5 "$url/v2/models/$name/config")
        case $config in *'"backend":"python"'*) ;; *) continue ;; esac
        wanted=0
        for group in $(printf %s "$config" | grep -o '"kind":"[A-Z_]*","count":[0-9]*'); do
            wanted=$((wanted + ${group##*:}))
        done
        # Its process has MODEL/VERSION/model.py among its words.
        set -- $(grep -l "/$name/[0-9][0-9]*/" $(processes) 2>/dev/null </dev/null)
        # None at all: they are called otherwise in this release; a token tells.
        if [ $# -gt 0 ] && [ $# -lt "$wanted" ]; then
            problem="$name has $# of its $wanted Python processes"
            return 1
        fi
        [ "$wanted" -gt "$most" ] && most=$wanted
    done
    set -- $(processes)
    echo $# > "$state/.processes"
}

# Whether no Python process was lost since it was counted last. A count that is too small is looked into, as models may
# have been unloaded.
whole() {
    read -r expected 2>/dev/null < "$state/.processes" || { instances; return; }
    set -- $(processes)
    [ $# -le "$expected" ] || echo $# > "$state/.processes"
    [ $# -ge "$expected" ] || instances
}

# every_instance MODEL...: Triton gives requests to the instances of a model in turn, so that twice as many tokens as
# there are instances come from all of them. Busy ones are not judged, nor waited for longer than for one token.
every_instance() {
    rm -f "$wrong_file"
    deadline=$(($(date +%s) + token_timeout))
    for model in "$@"; do
        count=$((2 * most))
        while [ "$count" -gt 0 ] && [ "$(date +%s)" -lt "$deadline" ]; do
            batch=$((count < at_once ? count : at_once))
            count=$((count - batch))
            jobs=
            while [ "$batch" -gt 0 ]; do
                { ask "$model" $((quick * 4)); [ $? = 1 ] && echo "$problem" > "$wrong_file"; } &
                jobs="$jobs $!"
                batch=$((batch - 1))
            done
            wait $jobs
        done
    done
    [ -s "$wrong_file" ] || return 0
    problem=$(cat "$wrong_file")
    return 1
}

start() {
    tries=0
    until ask_all "$@"; do
        tries=$((tries + 1))
        [ -e "$state/.stopping" ] && exit 0
        if [ "$tries" -ge 100 ]; then
            # No answer is what a server gives that loads its models.
            case $problem in *curl*) ;; *) say "$problem" ;; esac
            exit 1
        fi
        sleep 0.2
    done
    { instances && every_instance "$@"; } || { sleep 1; instances && every_instance "$@"; } && exit 0
    # A process that died at the start does not come back by itself: begin anew.
    say "$problem"
    kill -TERM "$init"
    exit 1
}

ask_all() {
    for model in "$@"; do
        ask "$model" "$token_timeout" || return
    done
}

steady() {
    tries=0
    until whole && tokens "$@"; do
        code=$?
        tries=$((tries + 1))
        [ -e "$state/.stopping" ] && exit 0
        if [ "$code" = 2 ] || [ "$tries" -ge "$retries" ]; then
            say "$problem"
            exit 1
        fi
        sleep 1
    done
    [ "$tries" = 0 ] && exit 0
    # One answer was wrong and the next right: they may be of two processes.
    { instances && every_instance "$@"; } || { sleep 1; instances && every_instance "$@"; } && exit 0
    say "$problem"
    exit 1
}

[ -e "$state/.stopping" ] && exit 0
mode=$1
shift
"$mode" "$@"
