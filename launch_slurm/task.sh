#!/bin/bash
# One rank of a job: task.sh FOLDER RECIPE [--table.field value ...]
#
# How the rank left is written to FOLDER/left.<rank>. A rank that stopped early leaves with 75; seen by srun
# --kill-on-bad-exit that would be a failure: it would kill the other ranks and report 143. So 75 becomes a clean exit
# here, and the batch script reads the files.
set -u
folder=$1
shift
trap : TERM USR1 USR2 # SLURM signals every process of a step: the shell must outlive the rank to see how it left
(
  trap '' TERM USR1 USR2 # until Python listens to them itself (unibert/runtime/stop.py)
  exec python -m unibert train "$@"
)
code=$?
echo "$code" >"$folder/left.${SLURM_PROCID:-0}"
[ "$code" -ne 75 ] || exit 0
exit "$code"
