#!/usr/bin/env bash
# Start a SLURM cluster on this machine, for tests: 2 nodes of 2 CPUs and 2 fake GPUs, a partition
# `main`, and a partition `urgent` whose jobs preempt those of `main`. Nothing but loopback is used.
#   start.sh FOLDER PORT        prints the SLURM_CONF to use; stop.sh FOLDER ends it
# ACCOUNTING=1 adds slurmdbd over a private MariaDB, so that sacct works.
set -euo pipefail
mkdir -p "$1"
folder=$(cd "$1" && pwd)
port=$2
me=$(id -un)
host=$(hostname -s)
mkdir -p "$folder"/{state,log,munge,gpu}
: > "$folder/pids"

wait_until() {  # wait_until COMMAND...: up to 30 s
  for _ in $(seq 1 300); do "$@" > /dev/null 2>&1 && return 0; sleep 0.1; done
  echo "start.sh: this never came true: $*" >&2
  return 1
}

start_munge() {
  chmod 755 "$folder" "$folder/munge"
  (umask 077; head -c 128 /dev/urandom > "$folder/munge/key")
  munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
    --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
  cat "$folder/munge/pid" >> "$folder/pids"
}

start_accounting() {
  local db="$folder/db" sql="$folder/sql"
  mkdir -p "$db"
  mariadb-install-db --no-defaults --user="$me" --datadir="$db" --skip-test-db \
    --auth-root-authentication-method=socket > "$folder/log/install-db" 2>&1
  mariadbd --no-defaults --user="$me" --datadir="$db" --socket="$sql" --port=$((port + 2)) \
    --bind-address=127.0.0.1 --pid-file="$folder/db.pid" --log-error="$folder/log/db" \
    --innodb-buffer-pool-size=64M --innodb-flush-log-at-trx-commit=0 < /dev/null > /dev/null 2>&1 &
  wait_until mariadb-admin --no-defaults --socket="$sql" ping
  cat "$folder/db.pid" >> "$folder/pids"
  mariadb --no-defaults --socket="$sql" <<'SQL'
CREATE DATABASE accounts;
CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
CREATE USER 'slurm'@'localhost' IDENTIFIED BY 'slurm';
GRANT ALL ON accounts.* TO 'slurm'@'127.0.0.1';
GRANT ALL ON accounts.* TO 'slurm'@'localhost';
SQL
  (umask 077; cat > "$folder/slurmdbd.conf") <<CONF
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((port + 1))
SlurmUser=$me
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((port + 2))
StorageUser=slurm
StoragePass=slurm
StorageLoc=accounts
LogFile=$folder/log/slurmdbd
PidFile=$folder/slurmdbd.pid
CONF
  SLURM_CONF="$folder/slurmdbd.conf" slurmdbd < /dev/null
  wait_until grep -q "slurmdbd version .* started" "$folder/log/slurmdbd"
  cat "$folder/slurmdbd.pid" >> "$folder/pids"
}

write_config() {
  cat > "$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$me
SlurmdUser=$me
AuthType=auth/munge
# A requeued job would else wait two minutes for its old credential to expire.
AuthInfo=socket=$folder/munge/socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool.%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/log/slurmctld
SlurmdLogFile=$folder/log/slurmd.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
MinJobAge=300
MaxArraySize=${MAX_ARRAY_SIZE:-1001}
GresTypes=gpu
CONF
  if [ "${ACCOUNTING:-0}" = 1 ]; then
    cat >> "$folder/slurm.conf" <<CONF
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 1))
AccountingStoragePass=$folder/munge/socket
CONF
  fi
  for i in 1 2; do
    cat >> "$folder/slurm.conf" <<CONF
NodeName=n$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 10 + i)) CPUs=2 RealMemory=8000 Gres=gpu:2
CONF
  done
  cat >> "$folder/slurm.conf" <<CONF
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=n[1-2] MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
CONF
  for gpu in 0 1; do  # a GPU must be a character device
    mknod "$folder/gpu/nvidia$gpu" c 1 3 2> /dev/null || ln -sf /dev/null "$folder/gpu/nvidia$gpu"
  done
  echo "NodeName=n[1-2] Name=gpu File=$folder/gpu/nvidia[0-1]" > "$folder/gres.conf"
}

all_idle() { [ "$(sinfo -h -N -p main -t idle -o %N | wc -l)" = 2 ]; }

start_munge
if [ "${ACCOUNTING:-0}" = 1 ]; then start_accounting; fi
write_config
export SLURM_CONF="$folder/slurm.conf"
slurmctld -c < /dev/null
for i in 1 2; do mkdir -p "$folder/spool.n$i"; slurmd -c -N "n$i" < /dev/null; done
wait_until all_idle
cat "$folder"/slurmctld.pid "$folder"/slurmd.n?.pid >> "$folder/pids"
echo "$SLURM_CONF"
