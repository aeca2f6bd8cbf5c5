# SPDX-License-Identifier: GPL-3.0-or-later
# Whether Slurm still knows of this start of the job: sh current.sh; exit code 1 only where it says that it does not.
#
# Slurm ends what runs on a node through its daemon there. Where only that daemon is gone, Slurm gives the node up, and ends
# the job or starts it anew on others, while all that it started on this node runs on. A job that is completing is left to
# Slurm, which gives its processes the time of KillWait.

told=$(scontrol --oneliner show job "$SLURM_JOB_ID" 2>&1)
field() {
    echo "$told" | tr ' ' '\n' | sed -n "s/^$1=//p" | head -n 1
}

case $told in
    *'Invalid job id'*) exit 1 ;;
esac
case $(field JobState) in
    RUNNING | SUSPENDED | STOPPED) [ "$(field Restarts)" = "${SLURM_RESTART_COUNT:-0}" ] ;;
    PENDING | REQUEUE* | BOOT_FAIL | CANCELLED | COMPLETED | DEADLINE | FAILED | NODE_FAIL | OUT_OF_MEMORY | PREEMPTED | \
        REVOKED | TIMEOUT) exit 1 ;;
esac
