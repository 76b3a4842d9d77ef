#!/usr/bin/env bash
# A real SLURM cluster on this machine for as long as a test lasts: munged, slurmctld and a slurmd for each node.
# It needs root and Linux namespaces. It needs no systemd, changes nothing outside DIR, and keeps every file there.
#
#   cluster.sh start DIR            boot; DIR must not exist. Prints the variable to export for sbatch, squeue, scontrol ...
#   cluster.sh wipe DIR             cancel jobs, end the daemons, remove DIR
#   cluster.sh run DIR COMMAND...   run a command as on the login node (CLUSTER_NETWORK=own needs it)
#   cluster.sh node-kill DIR NODE   cut its power: send SIGKILL to slurmd, its job steps and all their processes
#   cluster.sh node-start DIR NODE  boot a node that was killed
#
# Environment of start:
#   CLUSTER_NODES    the number of nodes, which are called n1, n2 ... (2)
#   CLUSTER_CPUS     the number of CPUs that each claims to have (8)
#   CLUSTER_GPUS     the number of GPUs that each claims to have (4); none of them exists
#   CLUSTER_NETWORK  shared: each node has its own hostname, /etc/hosts and processes; all share one loopback (default)
#                    own: each node has its own network too, n1 is 10.77.0.11; a process that uses a wrong address hangs
#
# The partitions are low (the default, whose jobs are preempted by requeue after a grace of 5 s) and high.
# Some times of SLURM are shortened: a requeued job waits 6 s, a dead node is noticed after some 25 s, KillWait is 5 s.
set -u -o pipefail
umask 022
PATH=$PATH:/usr/sbin:/sbin

die() { echo "cluster.sh: $*" >&2; exit 1; }
[[ $# -ge 2 ]] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 2; }
cmd=$1 D=$2
shift 2
[[ $D == /* ]] || D=$PWD/$D
NODES=${CLUSTER_NODES:-2} CPUS=${CLUSTER_CPUS:-8} GPUS=${CLUSTER_GPUS:-4} NETWORK=${CLUSTER_NETWORK:-shared}
[[ -f $D/cluster.env ]] && . "$D/cluster.env"
export SLURM_CONF=$D/slurm.conf

not() { ! "$@"; }
wait_for() { # SECONDS COMMAND...: try the command every 50 ms until it succeeds; fail after SECONDS
    local n=$(($1 * 20))
    shift
    until "$@" >/dev/null 2>&1; do
        ((--n > 0)) || return 1
        sleep 0.05
    done
}
# Whether the pid is a live process of this cluster. It is no zombie, and was started with our SLURM_CONF: a process that has
# got the pid of a dead one was not.
ours() { # PID
    local state
    state=$(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$1/status" 2>/dev/null)
    [[ -n $state && $state != Z ]] && tr '\0' '\n' 2>/dev/null <"/proc/$1/environ" | grep -qxF "SLURM_CONF=$D/slurm.conf"
}
pid_of() { cat "$D/run/$1.pid" 2>/dev/null; }
alive() { # NAME
    local pid
    pid=$(pid_of "$1") && [[ -n $pid ]] && ours "$pid"
}
end() { # NAME: send TERM, and KILL after 5 s
    alive "$1" || return 0
    local pid
    pid=$(pid_of "$1")
    case $(cat "/proc/$pid/comm") in
        unshare) kill $(cat "/proc/$pid/task/$pid/children") 2>/dev/null ;; # unshare ignores TERM, its child does not
        *) kill "$pid" 2>/dev/null ;;
    esac
    wait_for 5 not ours "$pid" || kill -9 "$pid" 2>/dev/null
}
processes() { # [NODE]: print the pids of a node, or of all nodes; slurmd sets SLURMD_NODENAME for its steps
    local p variables
    for p in /proc/[0-9]*; do
        variables=$'\n'$(tr '\0' '\n' 2>/dev/null <"$p/environ")$'\n'
        [[ $variables == *$'\n'"SLURM_CONF=$D/slurm.conf"$'\n'* && $variables == *$'\n'"SLURMD_NODENAME=${1:-}"* ]] && echo "${p#/proc/}"
    done
}
in_ctl() { # COMMAND...: run it in the network of slurmctld
    if [[ $NETWORK == own ]]; then nsenter -t "$(pid_of ctl)" --net -- "$@"; else "$@"; fi
}
address() { # NUMBER
    if [[ $NETWORK == own ]]; then echo "10.77.0.$1"; else echo 127.0.0.1; fi
}

write_conf() {
    local i host loopback=''
    host=$(uname -n)
    # If SLURM listens on loopback alone, it looks up its own hostname. So this works only where that is 127.0.0.1.
    [[ $NETWORK == shared && $(getent ahostsv4 "$host" | awk 'NR==1{print $1}') == 127.0.0.1 ]] &&
        loopback=CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
    host=${host%%.*}
    # cred_expire is also how long a requeued job is held back. FirstJobId is random, because the port of a training job comes
    # from its id, and two clusters may share a loopback. config_overrides lets SLURM believe the CPUs and GPUs named here
    # instead of the hardware.
    cat >"$D/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host($(address 1))
SlurmctldPort=$PORT
FirstJobId=$((RANDOM + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$D/munge/socket,cred_expire=5
$loopback
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool/%n
SlurmctldPidFile=$D/run/slurmctld.pid
SlurmdPidFile=$D/run/slurmd.%n.pid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdLogFile=$D/log/slurmd.%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=5
CompleteWait=0
MinJobAge=3600
InactiveLimit=0
SlurmctldTimeout=30
SlurmdTimeout=15
MessageTimeout=30
UnkillableStepTimeout=30
SlurmdParameters=config_overrides
GresTypes=gpu
PartitionName=low  Nodes=ALL Default=YES PriorityTier=1  PreemptMode=REQUEUE GraceTime=5 DefaultTime=60 MaxTime=INFINITE
PartitionName=high Nodes=ALL Default=NO  PriorityTier=10 PreemptMode=OFF DefaultTime=60 MaxTime=INFINITE
CONF
    { cat /etc/hosts; [[ $NETWORK == own ]] && echo "$(address 1) $host"; } >"$D/hosts"
    [[ $NETWORK == own ]] && sed -i "/^127\..*[[:space:]]$host\([[:space:]]\|\$\)/d" "$D/hosts"
    for ((i = 1; i <= NODES; i++)); do
        echo "NodeName=n$i NodeAddr=$(address $((10 + i))) Port=$((PORT + i)) CPUs=$CPUS RealMemory=1000000 Gres=gpu:$GPUS" >>"$D/slurm.conf"
        echo "$(address $((10 + i))) n$i" >>"$D/hosts"
    done
    echo "NodeName=n[1-$NODES] Name=gpu File=$D/dev/gpu[0-$((GPUS - 1))]" >"$D/gres.conf"
    for ((i = 0; i < GPUS; i++)); do ln -s /dev/null "$D/dev/gpu$i"; done # SLURM gives out character devices only
    echo "CgroupPlugin=cgroup/v1" >"$D/cgroup.conf" # slurmd reads this file but does not use it
    declare -p NODES NETWORK >"$D/cluster.env"

    # proctrack/linuxproc finds processes by their parents, so one whose parent died would outlive its job. As a "child
    # subreaper" slurmstepd becomes its parent instead.
    cat >"$D/bin/slurmstepd" <<'PERL'
#!/usr/bin/perl
my $prctl = `uname -m` =~ /^(aarch64|riscv64)/ ? 167 : 157;
syscall($prctl, 36, 1, 0, 0, 0);
exec { "/usr/sbin/slurmstepd" } "/usr/sbin/slurmstepd", @ARGV or die "slurmstepd: $!";
PERL
    # This is the first process of a node. When it ends, the kernel ends all others of the node.
    cat >"$D/bin/node" <<'SH'
#!/bin/bash
hostname "$1" && mount --bind "$2/hosts" /etc/hosts || exit 1
if [[ $3 == own ]]; then
    ip link set lo up
    until ip -o -4 addr show dev eth0 2>/dev/null | grep -q inet; do sleep 0.05; done
fi
slurmd -D -N "$1" -d "$2/bin/slurmstepd" &
trap 'kill $!' TERM
while kill -0 $! 2>/dev/null; do wait $!; done
SH
    chmod 755 "$D"/bin/*
}

start_node() ( # NODE
    mkdir -p "$D/spool/$1" && cd "$D" || exit 1
    own=()
    [[ $NETWORK == own ]] && own=(--net)
    # slurmd gets a clean environment, because its job steps inherit it.
    setsid env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 SLURM_CONF="$SLURM_CONF" \
        unshare --uts --mount --propagation slave --pid --fork --kill-child --mount-proc "${own[@]}" \
        "$D/bin/node" "$1" "$D" "$NETWORK" </dev/null >"$D/log/$1.out" 2>&1 &
    echo $! >"$D/run/$1.pid"
    wait_for 2 alive "$1" || exit 1
    [[ $NETWORK == own ]] || exit 0
    wait_for 3 grep -q . "/proc/$!/task/$!/children" || exit 1
    init=$(($(cat "/proc/$!/task/$!/children")))
    link=veth-$1
    in_ctl ip link del "$link" 2>/dev/null
    in_ctl ip link add "$link" type veth peer name eth0 netns "$init" && in_ctl ip link set "$link" master br0 up &&
        nsenter -t "$init" --net -- ip link set eth0 up &&
        nsenter -t "$init" --net -- ip addr add "$(address $((10 + ${1#n})))/24" dev eth0
)
start_ctl_network() {
    setsid unshare --net sleep infinity </dev/null >/dev/null 2>&1 &
    echo $! >"$D/run/ctl.pid"
    wait_for 2 test "$(readlink /proc/self/ns/net)" != "$(readlink "/proc/$!/ns/net")"
    sleep 0.1
    in_ctl ip link set lo up && in_ctl ip link add br0 type bridge && in_ctl ip addr add 10.77.0.1/24 dev br0 && in_ctl ip link set br0 up
}
ready() { [[ $(in_ctl sinfo -h -N -p low -o %T 2>/dev/null | grep -cE '^(idle|mixed|allocated|completing)$') == "$NODES" ]]; }
names() { seq -f 'n%g' 1 "$NODES"; }
port_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

start() {
    local n tail="tail -n 5 $D/log"
    [[ $(id -u) == 0 ]] || die "must be root"
    ((${#D} <= 70)) || die "$D is too long a name: slurmd makes sockets in it, of at most 108 characters"
    mkdir -p "$(dirname "$D")" && mkdir "$D" "$D"/{bin,dev,log,munge,run,spool,state} || die "cannot make $D"
    while :; do
        PORT=$((11000 + RANDOM % 8000)) # the nodes have the ports after it
        for ((n = 0; n <= NODES; n++)); do port_free $((PORT + n)) || continue 2; done
        break
    done
    write_conf
    (umask 077 && head -c 1024 /dev/urandom >"$D/munge/key")
    # --force, because pytest makes folders that only root may enter
    munged --force --origin=127.0.0.1 --num-threads=2 --key-file="$D/munge/key" --socket="$D/munge/socket" \
        --pid-file="$D/run/munged.pid" --log-file="$D/log/munged.log" --seed-file="$D/munge/seed" || die "munged: $($tail/munged.log)"
    wait_for 5 munge -n -S "$D/munge/socket" || die "munged does not answer: $($tail/munged.log)"
    [[ $NETWORK == shared ]] || start_ctl_network || die "cannot make a network"
    (cd "$D" && in_ctl slurmctld) || die "slurmctld: $($tail/slurmctld.log)"
    wait_for 10 in_ctl scontrol ping || die "slurmctld does not answer: $($tail/slurmctld.log)"
    for n in $(names); do start_node "$n" || die "node $n: $($tail/"$n".out)"; done
    wait_for 20 ready || die "nodes did not come up: $(in_ctl sinfo -N -l)"
    echo "export SLURM_CONF=$SLURM_CONF"
}
no_jobs() { [[ -z $(in_ctl squeue -h -t PENDING,RUNNING,COMPLETING,SUSPENDED -o %A 2>/dev/null) ]]; }
wipe() {
    local n state
    [[ -f $D/cluster.env ]] || die "no cluster at $D"
    if alive slurmctld; then
        for state in PENDING RUNNING,SUSPENDED; do # pending jobs first, because they would start when others end
            in_ctl squeue -h -t $state -o %A 2>/dev/null | sort -u | in_ctl xargs -r scancel 2>/dev/null
        done
        wait_for 12 no_jobs
    fi
    for n in $(names) slurmctld; do end "$n"; done
    processes | xargs -r kill -9 2>/dev/null
    end munged
    end ctl
    rm -rf "$D"
}

case $cmd in
    start) start ;;
    wipe) wipe ;;
    run) in_ctl "$@" ;;
    node-kill) # The first process takes the others with it. Finding any that are left takes seconds on a busy machine.
        pid_of "$1" | xargs -r kill -9 2>/dev/null
        processes "$1" | xargs -r kill -9 2>/dev/null || true
        ;;
    node-start) start_node "$1" && wait_for 15 ready ;;
    *) die "no command $cmd" ;;
esac
