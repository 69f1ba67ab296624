#!/usr/bin/env bash
# A real SLURM cluster on this machine, for tests: slurmctld and a slurmd per node from Debian's packages, no systemd.
#
#   lab.sh start                         the cluster, until all nodes are idle (0.5 s)
#   lab.sh stop                          end what this lab started, and nothing else
#   lab.sh crash|boot|cut|join NODE      lose a machine at once | start it | pull its cable | plug it in again
#   lab.sh enter NODE COMMAND ...        run a command in the node's own mounts and host name
#
# From the environment, the same at each call: LAB (folder of its own), PORT (and as many after it as there are nodes),
# NODES=2, CABLES=0|1 (1: every node has its own network, so that cut and join work), GRACE=0 (seconds of the partition
# `spot`, which the partition `debug` pre-empts). Needs root: each node has its own mounts and host name (namespaces).
#
# Nothing is confined: no control groups, no accounting, no password between the daemons (auth/none).
set -euo pipefail
LAB=${LAB:?a folder for this lab} PORT=${PORT:?a free port} NODES=${NODES:-2} CABLES=${CABLES:-0} GRACE=${GRACE:-0}
export SLURM_CONF=$LAB/slurm.conf
HOST=$(hostname -s)
NET=10.213.$((PORT / 20 % 250)) BRIDGE=lab$PORT

address() { if [ "$CABLES" = 1 ]; then echo "$NET.$((10 + $1))"; else echo "127.0.1.$1"; fi; }
ours() { # NAME: whether the program of LAB/NAME.pid runs, and is this lab's (ids come back)
  [ -s "$LAB/$1.pid" ] && tr '\0' '\n' 2>/dev/null <"/proc/$(<"$LAB/$1.pid")/environ" | grep -qxF "SLURM_CONF=$SLURM_CONF"
}
end() { # NAME: end it, politely at first
  if ours "$1"; then
    kill "$(<"$LAB/$1.pid")" 2>/dev/null || true
    for _ in {1..60}; do ours "$1" || break; sleep 0.05; done
    if ours "$1"; then kill -KILL "$(<"$LAB/$1.pid")" 2>/dev/null || true; fi
  fi
  rm -f "$LAB/$1.pid"
}

configure() {
  mkdir -p "$LAB/state"
  local central=127.0.0.1 i
  [ "$CABLES" = 1 ] && central=$NET.1
  {
    cat <<E
ClusterName=lab$PORT
SlurmctldHost=$HOST($central)
SlurmctldPort=$PORT
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/none
CredType=cred/none
# Also how long a requeued job waits before it may start again.
AuthInfo=cred_expire=5
# Job ids decide the port at which ranks meet: two labs side by side must not have the same.
FirstJobId=$((1 + PORT / 20 % 250 * 60))
StateSaveLocation=$LAB/state
SlurmdSpoolDir=$LAB/spool.%n
TmpFS=$LAB/tmp.%n
SlurmctldPidFile=$LAB/slurmctld.pid
SlurmdPidFile=$LAB/%n.pid
SlurmctldLogFile=$LAB/slurmctld.log
SlurmdLogFile=$LAB/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0,sched_min_interval=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=5
# A node that says nothing for so long is down; noticed after about twice as long.
SlurmdTimeout=15
InactiveLimit=0
# scontrol goes on answering about jobs that have ended.
MinJobAge=86400
MailProg=/bin/true
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
# Jobs are as patient as who submits them; the daemons are not, since they have to answer in time.
PropagatePrioProcess=1
E
    for i in $(seq "$NODES"); do
      echo "NodeName=node$i NodeHostname=node$i NodeAddr=$(address "$i") Port=$((PORT + i)) CPUs=2 RealMemory=4000"
    done
    echo "PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF"
    echo "PartitionName=spot Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=$GRACE"
  } >"$LAB/slurm.conf"
  # slurmd loads a cgroup plugin although nothing here uses one; naming it skips a search that fails in containers.
  echo "CgroupPlugin=cgroup/v1" >"$LAB/cgroup.conf"
  # What the nodes see as /etc/hosts; and no DNS, whose reverse look-ups cost 10 s where a node cannot reach it.
  { grep -vw "$HOST" /etc/hosts; echo "$central $HOST"
    for i in $(seq "$NODES"); do echo "$(address "$i") node$i"; done; } >"$LAB/hosts"
  printf 'passwd: files\ngroup: files\nhosts: files\n' >"$LAB/nsswitch.conf"
}

lay_cables() {
  local i
  ip link add "$BRIDGE" type bridge
  ip addr add "$NET.1/24" dev "$BRIDGE"
  ip link set "$BRIDGE" up
  for i in $(seq "$NODES"); do
    ip netns add "$BRIDGE-node$i"
    ip link add "v$PORT.$i" type veth peer name eth0 netns "$BRIDGE-node$i"
    ip link set "v$PORT.$i" master "$BRIDGE" up
    ip -n "$BRIDGE-node$i" addr add "$NET.$((10 + i))/24" dev eth0
    ip -n "$BRIDGE-node$i" link set lo up
    ip -n "$BRIDGE-node$i" link set eth0 up
  done
}

boot() {
  ours "$1" && return
  mkdir -p "$LAB/spool.$1" "$LAB/tmp.$1"
  local enter=()
  # Not `ip netns exec`, which would hide /sys/fs/cgroup.
  [ "$CABLES" = 1 ] && enter=(nsenter --net="/run/netns/$BRIDGE-$1")
  # shellcheck disable=SC2016  # the inner shell expands them
  "${enter[@]}" unshare --mount --uts bash -c '
    mount --bind "$2/hosts" /etc/hosts && mount --bind "$2/nsswitch.conf" /etc/nsswitch.conf && hostname "$1" &&
    readlink /proc/self/ns/uts >"$2/$1.machine" && exec slurmd -N "$1"' _ "$1" "$LAB" </dev/null >>"$LAB/$1.out" 2>&1
}
crash() { # everything in the machine's namespace, at once: slurmd, steps, and what the steps left behind
  local machine found
  machine=$(cat "$LAB/$1.machine" 2>/dev/null) || return 0
  [ "$machine" != "$(readlink /proc/self/ns/uts)" ] || return 1
  found=$(find /proc/[0-9]*/ns/uts -maxdepth 0 -lname "${machine//[/\\[}" -printf '%h\n' 2>/dev/null) || true
  found=${found//\/proc\//}
  # shellcheck disable=SC2086  # one word each
  [ -z "$found" ] || kill -KILL ${found//\/ns/} 2>/dev/null || true
  rm -f "$LAB/$1.pid" "$LAB/$1.machine"
}

start() {
  mkdir -p "$LAB"
  configure
  [ "$CABLES" = 1 ] && lay_cables
  local i
  slurmctld </dev/null >>"$LAB/slurmctld.out" 2>&1
  for i in $(seq "$NODES"); do boot "node$i"; done
  for _ in {1..200}; do
    [ "$(timeout 5 sinfo -h -N -p debug -t idle 2>/dev/null | wc -l)" = "$NODES" ] && return
    sleep 0.1
  done
  echo "lab.sh: the nodes did not come up" >&2
  tail -n 5 "$LAB"/*.log "$LAB"/*.out >&2
  return 1
}
stop() {
  local i
  if ours slurmctld; then timeout 5 scancel --state=PENDING || true; timeout 5 scancel --state=RUNNING || true; fi
  end slurmctld
  for i in $(seq "$NODES"); do crash "node$i"; done
  [ "$CABLES" = 1 ] || return 0
  for i in $(seq "$NODES"); do ip netns del "$BRIDGE-node$i" 2>/dev/null || true; done
  ip link del "$BRIDGE" 2>/dev/null || true
}

renice --priority 0 --pid $$ >/dev/null 2>&1 || true # see PropagatePrioProcess
case "${1:-}" in
  start | stop) "$1" ;;
  crash | boot) "$1" "$2" ;;
  cut) ip link set "v$PORT.${2#node}" down ;;
  join) ip link set "v$PORT.${2#node}" up ;;
  enter)
    node=$2
    shift 2
    exec nsenter --target "$(<"$LAB/$node.pid")" --mount --uts "$@"
    ;;
  *)
    sed -n '2,13p' "$0" >&2
    exit 2
    ;;
esac
