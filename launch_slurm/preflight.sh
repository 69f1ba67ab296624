#!/bin/bash
# Look at each node of the job before its ranks start: preflight.sh FOLDER RECIPE [--table.field value ...]
#
# Leaves with 0: all nodes are fine, or nobody is to look. With 75: FOLDER/bad_nodes names bad ones, and the job is back
# in the queue without them. With 6: nobody can say which nodes are bad, or the job cannot do without them.
# What is looked at: unibert/preflight/. It takes some ten seconds.
set -u
folder=$1
shift
[ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ] && [ "${UNIBERT_PREFLIGHT:-1}" != 0 ] || exit 0

# shellcheck disable=SC2206  # it is words
container=(${UNIBERT_SRUN:-}) # as in train.sbatch
inside() { if [ ${#container[@]} -eq 0 ]; then "$@"; else srun --nodes=1 --ntasks=1 "${container[@]}" "$@"; fi; }
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
answers=$folder/preflight.jsonl
rm -f "$answers" "$folder/bad_nodes"
for stage in look meet; do
  # No --kill-on-bad-exit: a bad node must not silence the others. And a limit, for nodes that hang.
  timeout --kill-after=10 "${UNIBERT_PREFLIGHT_SECONDS:-180}" \
    srun --nodes="${#nodes[@]}" --ntasks="${#nodes[@]}" --ntasks-per-node=1 --kill-on-bad-exit=0 \
    "${container[@]}" python -m unibert preflight "$stage" "$@" >>"$answers"
  inside python -m unibert preflight "judge_$stage" "$@" --answers "$answers" --nodes "${nodes[@]}" || exit
  [ ! -s "$folder/bad_nodes" ] || break
done
[ -s "$folder/bad_nodes" ] || exit 0

bad=$(cut -d' ' -f1 "$folder/bad_nodes" | paste -sd,)
if [ "${UNIBERT_CHAIN:-0}" != 0 ]; then
  echo "preflight: a chain puts no job back: submit the rest of it with --exclude=$bad"
  exit 6
fi
# Those that it does without already, by --exclude or an earlier look, stay away.
before=$(scontrol --oneliner show job "$SLURM_JOB_ID" | grep -o ' ExcNodeList=[^ ]*' | cut -d= -f2)
[ -z "$before" ] || [ "$before" = "(null)" ] || bad=$before,$bad
trap '' TERM # requeueing signals this shell
echo "preflight: back into the queue without $bad"
if ! scontrol requeuehold "$SLURM_JOB_ID"; then
  echo "preflight: the job may not be put back: submit it again with --exclude=$bad"
  exit 6
fi
for _ in {1..50}; do # refused until the job has left its nodes
  scontrol update JobId="$SLURM_JOB_ID" ExcNodeList="$bad" 2>"$folder/update.log" && break
  sleep 0.2
done
if ! scontrol release "$SLURM_JOB_ID"; then
  echo "preflight: the job is held: scontrol release $SLURM_JOB_ID"
fi
exit 75
