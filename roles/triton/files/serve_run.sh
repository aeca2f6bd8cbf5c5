# SPDX-License-Identifier: GPL-3.0-or-later
# What a container of trtllm-serve runs: sh serve_run.sh COMMAND...
#
# What was tuned is kept in a file for each kind of GPU: the server takes what a file says without looking on which GPU it was
# measured.
#
# From some release on the server sends figures on its use to others unless it is told not to, by an option that releases before
# end with. So it is asked what it takes: once for each image, as that is kept where what starts compile is, which is of one.

# The models of the GPUs that the host has; none on a machine without a driver.
gpus() {
    cat "${proc:-/proc}"/driver/nvidia/gpus/*/information 2>/dev/null | grep '^Model:' | sort -u | cksum | cut -d' ' -f1
}

case ${TLLM_AUTOTUNER_CACHE_PATH:-} in
*@gpus@*)
    TLLM_AUTOTUNER_CACHE_PATH=${TLLM_AUTOTUNER_CACHE_PATH%@gpus@*}$(gpus)${TLLM_AUTOTUNER_CACHE_PATH#*@gpus@}
    export TLLM_AUTOTUNER_CACHE_PATH
    ;;
esac
options() {
    file=${cache:-/cache}/serve-help.txt
    if [ ! -s "$file" ]; then
        said=$(trtllm-serve serve --help 2>/dev/null) || return 0
        [ -w "${file%/*}" ] || { printf '%s\n' "$said"; return; }
        printf '%s\n' "$said" > "$file.$$" && mv "$file.$$" "$file"
    fi
    cat "$file"
}

case $(options) in
*--no-telemetry*)
    # Servers of a replica that has several are started by what is started here.
    export TRTLLM_SERVE_MORE=--no-telemetry
    [ "$1" != trtllm-serve ] || set -- "$@" "$TRTLLM_SERVE_MORE"
    ;;
esac
exec sh "${0%/*}/run.sh" "$@"
