#!/bin/bash
# One rank of a job, or with UNIBERT_LAUNCHER=deepspeed one node's: task.sh FOLDER RECIPE [--table.field value ...]
#
# How the rank left is written to FOLDER/left.<rank>. A rank that stopped early leaves with 75; seen by srun
# --kill-on-bad-exit that would be a failure: it would kill the other ranks and report 143. So 75 becomes a clean exit
# here, and the batch script reads the files.
set -u
folder=$1
shift
launcher=(python -m unibert)
if [ "${UNIBERT_LAUNCHER:-srun}" = deepspeed ]; then # by its own launcher, on this node alone: no ssh
  read -r first _ <"$folder/hostfile"
  port=$((20000 + (SLURM_JOB_ID + 1009 * ${SLURM_RESTART_COUNT:-0}) % 10000)) # as in unibert/runtime/dist.py
  launcher=(deepspeed --hostfile "$folder/hostfile" --no_ssh --node_rank "$SLURM_NODEID"
    --master_addr "$first" --master_port "$port" --module unibert)
fi
# SLURM signals every process of a step, and this shell must outlive the rank to see how it left. One that comes while
# the rank starts, before Python listens (unibert/runtime/stop.py), is kept for it as the file that asks it to stop.
trap '[ -z "${UNIBERT_STOP_FILE:-}" ] || : >"$UNIBERT_STOP_FILE"' TERM USR1 USR2
(
  trap '' TERM USR1 USR2
  exec "${launcher[@]}" train "$@"
) &
rank=$!
while :; do # wait returns at every trap; go on until the rank itself is gone
  wait "$rank"
  kill -0 "$rank" 2>/dev/null || break
done
wait "$rank"
code=$?
echo "$code" >"$folder/left.${SLURM_PROCID:-0}"
[ "$code" -ne 75 ] || exit 0
exit "$code"
