# What the batch scripts share. They source it from the project's root, since what SLURM runs is a copy elsewhere.

refuse() { # MESSAGE
    printf 'bad input: %s\n' "$1" >&2
    exit 2
}

whole() { # NAME MINIMUM: refuse the variable if it is no whole number from MINIMUM to 999999
    [[ ${!1} =~ ^(0|[1-9][0-9]{0,5})$ ]] && (($1 >= $2)) || refuse "$1 = ${!1@Q} is not a whole number from $2 to 999999"
}

readable() { # FILE
    [[ -f $1 && -r $1 ]]
}

[[ -n ${SLURM_JOB_ID:-} ]] || refuse "no SLURM_JOB_ID: this script runs under SLURM, submit it with sbatch"

# The environment: SETUP is a file to source, the project's own .venv unless it says otherwise.
if [[ -n ${SETUP:-} ]]; then
    readable "$SETUP" || refuse "SETUP = ${SETUP@Q} cannot be read: it names a file to source, in ${PWD@Q} or with its whole path"
elif [[ -f .venv/bin/activate ]]; then
    SETUP=.venv/bin/activate
fi
set_up() { # in a function, or the file would see the script's arguments
    set +u
    source "$(realpath "$SETUP")"
    set -u
}
[[ -z ${SETUP:-} ]] || set_up

# CONTAINER: a prefix to every command that runs on the nodes, in words as xargs takes them (blanks part, quotes join).
container=()
if [[ -n ${CONTAINER:-} ]]; then
    xargs -r true <<<"$CONTAINER" 2>/dev/null || refuse "CONTAINER = ${CONTAINER@Q} has a quote that is not closed"
    mapfile -d '' -t container < <(xargs -r printf '%s\0' <<<"$CONTAINER")
fi

expect_modules() { # MODULE...: what Python must find
    local problem
    problem=$("${container[@]}" python -c 'import sys; from importlib.util import find_spec
sys.exit(", ".join(f"it has no {name}" for name in sys.argv[1:] if find_spec(name) is None) or None)' "$@" 2>&1 </dev/null) ||
        refuse "no python that can run this (${problem##*$'\n'}; PATH=$PATH): set SETUP to a file that sets the environment up"
}
