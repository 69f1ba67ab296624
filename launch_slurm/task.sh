#!/bin/bash
# One rank of a job: task.sh MARKER RECIPE [--table.field value ...]
#
# A rank that stopped early leaves with 75. Seen by srun --kill-on-bad-exit that would be a failure: it would kill the
# other ranks and report 143. So 75 becomes a marker file and a clean exit here, and the batch script reads the marker.
set -u
marker=$1
shift
trap : TERM USR1 USR2 # SLURM signals every process of a step: the shell must outlive the rank to see how it left
python -m unibert train "$@"
code=$?
if [ "$code" -eq 75 ]; then
  : >"$marker"
  exit 0
fi
exit "$code"
