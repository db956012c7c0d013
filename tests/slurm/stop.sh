#!/usr/bin/env bash
# stop.sh FOLDER: end the cluster that start.sh began there: its jobs, then its daemons, by their ids.
set -u
export SLURM_CONF="$1/slurm.conf"
scancel --user="$(id -un)" 2> /dev/null
for _ in $(seq 1 150); do [ -z "$(squeue -h 2> /dev/null)" ] && break; sleep 0.1; done
# slurmctld may have been restarted since: its newest id is in its own file.
pids="$(cat "$1"/slurmctld.pid 2> /dev/null) $(tac "$1/pids")"
for pid in $pids; do kill "$pid" 2> /dev/null; done
for _ in $(seq 1 100); do
  alive=""
  for pid in $pids; do kill -0 "$pid" 2> /dev/null && alive="$alive $pid"; done
  [ -z "$alive" ] && exit 0
  sleep 0.1
done
kill -9 $alive 2> /dev/null
exit 0
