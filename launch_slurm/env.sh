# shellcheck shell=bash
# The one file a cluster's owner edits. Every job sources it before anything else; source it in your login shell too,
# so that sbatch takes the account and partition below and `unibert` is found.

UNIBERT_HOME=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export UNIBERT_HOME

# --- where jobs go (sbatch reads these; an option on its command line wins) ---
# export SBATCH_ACCOUNT=my-project
# export SBATCH_PARTITION=gpu
# export SBATCH_QOS=normal

# --- software ---
# module purge; module load python/3.11 cuda
# What `make setup` made. Another environment or a container's own Python does as well.
if [ -f "$UNIBERT_HOME/.venv/bin/activate" ]; then
  # shellcheck disable=SC1091
  source "$UNIBERT_HOME/.venv/bin/activate"
fi

# --- network: only where the right interface is not found by itself ---
# export NCCL_SOCKET_IFNAME=ib0
# export GLOO_SOCKET_IFNAME=ib0

# --- caches: on a file system that every node of the job sees ---
export HF_HOME=${HF_HOME:-$UNIBERT_HOME/.cache/huggingface}
export TORCH_EXTENSIONS_DIR=${TORCH_EXTENSIONS_DIR:-$UNIBERT_HOME/.cache/torch_extensions}
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$UNIBERT_HOME/.cache/triton}
export MPLCONFIGDIR=${MPLCONFIGDIR:-$UNIBERT_HOME/.cache/matplotlib}
# Compute nodes often reach no hub; fetch on a login node first, then leave this on.
# export HF_HUB_OFFLINE=1

# --- processes ---
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
export PYTHONUNBUFFERED=1 # lines reach the log as they are written

# --- restarts: how often one job may put itself back into the queue ---
export UNIBERT_MAX_RESTARTS=${UNIBERT_MAX_RESTARTS:-50}
# Restarts in a row without a new checkpoint after which the job gives up and says so; 0: never.
export UNIBERT_STALLED_RESTARTS=${UNIBERT_STALLED_RESTARTS:-2}
# Where jobs may not be requeued: UNIBERT_CHAIN=1 sbatch --no-requeue --array=1-10%1 ... makes a chain of ten jobs. Jobs
# that only wait for each other (--dependency=singleton) give their chain a name instead: UNIBERT_CHAIN=monday.

# --- before a job of several nodes: a look at each of them (launch_slurm/preflight.sh); 0: none ---
export UNIBERT_PREFLIGHT=${UNIBERT_PREFLIGHT:-1}
