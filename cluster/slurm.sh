#!/usr/bin/env bash
# Ray on the nodes of one Slurm job, and a run on it. From the checkout, with its environment active:
#   sbatch cluster/slurm.sh configs/cluster_millions.yaml run.root=/scratch/runs data.path=/scratch/texts
# The same command again goes on where the run stopped. SEMTAG_INTERFACE names the network between the nodes, such as
# ib0; without it, it is the one of the default route. docs/cluster.md says more.
#SBATCH --job-name=semtag
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=8
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --output=semtag-%j.log
#SBATCH --open-mode=append
set -euo pipefail
: "${1:?give a config, for example configs/cluster_millions.yaml}"

# A token for this job alone. It lives in the environment of its processes and in no file.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export SEMTAG_INTERFACE=${SEMTAG_INTERFACE:-$(ip -4 route show default | awk '{print $5; exit}')}
port=6379
# Around Ray's own, which Ray opens to all users of the node. One that is there already may be another user's. A job that
# is put back into the queue takes a new one.
folder=/tmp/ray-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}
# shellcheck disable=SC2016  # the nodes fill this in, each its own
own_address='$(ip -4 -o addr show dev "$SEMTAG_INTERFACE" | awk "{sub(\"/.*\", \"\", \$4); print \$4; exit}")'

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# A step gets neither the job's cores nor its GPUs unless it asks; --overlap shares them between the steps.
step=(srun --overlap --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --gpus-per-node="${SLURM_GPUS_PER_NODE:-0}")
on_head=("${step[@]}" --nodes=1 --ntasks=1 --nodelist="${nodes[0]}")
head=$("${on_head[@]}" bash -c "echo $own_address")

steps=()
driver=
finish() {
    status=$?
    trap - EXIT TERM INT
    # The run first, then the cluster under it; `ray start --block` takes its processes down with it.
    for process in $driver "${steps[@]}"; do
        kill "$process" 2>/dev/null || true
        wait "$process" || true
    done
    # After a failure Ray's logs stay on the nodes.
    if [ "$status" = 0 ]; then
        "${step[@]}" rm -rf "$folder"
    fi
    exit "$status"
}
trap finish EXIT
trap 'exit 143' TERM INT

ray_start="mkdir -m 700 $folder && exec ray start --block --node-ip-address=$own_address"
"${on_head[@]}" bash -c "$ray_start --head --port=$port --dashboard-host=127.0.0.1 --temp-dir=$folder/ray" &
steps+=($!)
until "${on_head[@]}" ray health-check --address="$head:$port" 2>/dev/null; do
    kill -0 "${steps[0]}" || exit 1 # the head did not come up
    sleep 2
done
if [ "${#nodes[@]}" -gt 1 ]; then
    others=$((${#nodes[@]} - 1))
    "${step[@]}" --nodes="$others" --ntasks="$others" --exclude="${nodes[0]}" \
        bash -c "$ray_start --address=$head:$port" &
    steps+=($!)
fi

# In the background, so that the shell hears the signal that comes before the time limit.
"${on_head[@]}" semtag run "$@" "cluster.address=$head:$port" &
driver=$!
wait "$driver"
