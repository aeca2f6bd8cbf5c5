# SPDX-License-Identifier: GPL-3.0-or-later
# What a container of trtllm-serve runs: sh serve_run.sh COMMAND...
#
# What was tuned is kept in a file for each kind of GPU: the server takes what a file says without looking on which GPU it was
# measured.

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
exec sh "${0%/*}/run.sh" "$@"
