#!/usr/bin/env bash
# Used by both batch scripts inside a Slurm job: train.sh SCRIPT FLAGS...
#
# Every task is one process of the training with one GPU. Two minutes before the time limit Slurm
# sends SIGUSR1. The training saves and exits with 128 + 10, the job is requeued and resumes.
set -u
STOPPED_BY_USR1=138

# A job that was given a GPU does not train on the CPU, unless the user names a device.
case " $* " in *" --device"*) ;; *) set -- "$@" --device cuda ;; esac

export PATH="$PWD/.venv/bin:$PATH" # of `make install`

# The address at which the processes of several GPUs or nodes connect.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
export MASTER_ADDR MASTER_PORT
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" # srun does not inherit sbatch's

# shellcheck disable=SC2016 # the tasks' own variables
# Without --kill-on-bad-exit=0 Slurm may kill the tasks that still save.
srun --kill-on-bad-exit=0 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    exec python "$@"' task "$@"
code=$?
if [ $code -eq $STOPPED_BY_USR1 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
