# Functions and set-up that the batch scripts share. They source this file from the project's root, because SLURM runs a copy
# of the script from another place.

refuse() { # MESSAGE
    printf 'bad input: %s\n' "$1" >&2
    exit 2
}

whole() { # NAME MINIMUM: refuse the variable if it is not a whole number from MINIMUM to 999999
    [[ ${!1} =~ ^(0|[1-9][0-9]{0,5})$ ]] && (($1 >= $2)) || refuse "$1 = ${!1@Q} is not a whole number from $2 to 999999"
}

number() { # NAME: refuse the variable, if it is set, unless it is a plain number. Bash would run commands in what it computes with
    [[ ! ${!1:-0} =~ ^(0|[1-9][0-9]{0,17})$ ]] || return 0
    refuse "$1 = ${!1@Q} is not a number: SLURM sets this variable, and nobody else should"
}

readable() { # FILE
    [[ -f $1 && -r $1 ]]
}

[[ -n ${SLURM_JOB_ID:-} ]] || refuse "no SLURM_JOB_ID: this script runs under SLURM, submit it with sbatch"
for variable in SLURM_JOB_ID SLURM_JOB_NUM_NODES SLURM_GPUS_ON_NODE SLURM_CPUS_PER_TASK SLURM_RESTART_COUNT SLURM_ARRAY_JOB_ID \
    SLURM_ARRAY_TASK_ID; do
    number "$variable"
done

# sbatch hands on the environment in which it is called. Where that was another job's, these variables are that job's.
if [[ -n ${SLURM_ARRAY_TASK_ID:-}${SLURM_RESTART_COUNT:-} ]]; then
    this=$(scontrol --oneliner show job "$SLURM_JOB_ID" 2>/dev/null | grep "^JobId=$SLURM_JOB_ID ") # it also shows other tasks
    # If SLURM does not answer, they are believed: a task that took itself for a job of its own would begin its run anew.
    [[ -z $this || $this =~ ^JobId=[0-9]+\ ArrayJobId=[0-9]+\ ArrayTaskId=[0-9]+\  ]] || unset SLURM_ARRAY_JOB_ID SLURM_ARRAY_TASK_ID
    [[ ! $this =~ \ Requeue=[01]\ Restarts=([0-9]+)\  ]] || SLURM_RESTART_COUNT=${BASH_REMATCH[1]}
fi

# SETUP names a file to source, which sets the environment up. Without it the project's own .venv is used, if it is there.
if [[ -n ${SETUP:-} ]]; then
    readable "$SETUP" || refuse "SETUP = ${SETUP@Q} cannot be read: it names a file to source, in ${PWD@Q} or with its whole path"
elif [[ -f .venv/bin/activate ]]; then
    SETUP=.venv/bin/activate
fi
set_up() { # a function, because the file would otherwise see the script's arguments
    local -     # what the file does with `set` ends with the function
    set +u
    source "$(realpath "$SETUP")"
}
[[ -z ${SETUP:-} ]] || set_up

# CONTAINER is put before every command that runs on the nodes. xargs splits it into words at blanks, except within quotes.
container=()
if [[ -n ${CONTAINER:-} ]]; then
    xargs -r true <<<"$CONTAINER" 2>/dev/null || refuse "CONTAINER = ${CONTAINER@Q} has a quote that is not closed"
    mapfile -d '' -t container < <(xargs -r printf '%s\0' <<<"$CONTAINER")
fi

expect_modules() { # MODULE...: refuse to go on if Python does not find one of them
    local problem
    problem=$("${container[@]}" python -c 'import sys; from importlib.util import find_spec
sys.exit(", ".join(f"it has no {name}" for name in sys.argv[1:] if find_spec(name) is None) or None)' "$@" 2>&1 </dev/null) ||
        refuse "no python that can run this (${problem##*$'\n'}; PATH=$PATH): set SETUP to a file that sets the environment up"
}
