"""What a shell offers at Tab: a script with all words in it, made once and sourced.

To ask the program at each Tab would take the seconds that it takes to import torch, beside which a recipe's sections stand.
"""

import re
from collections.abc import Mapping

from distrib.config.fields import accepted, all_fields, tables
from distrib.launch_files import recipe_names
from distrib.training.recipe import RunConfig

_SCRIPT = """\
# {shell}: eval "$(twinstep --completion {shell})", or keep this in a file and source it.
{before}_twinstep() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words=
    if ((COMP_CWORD == 1)); then
        words='{commands}'
    else
        case ${{COMP_WORDS[1]}}:$before in
{values}
            *) case ${{COMP_WORDS[1]}} in
{options}
            esac ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _twinstep twinstep
"""


def script(shell: str, helps: Mapping[str, str]) -> str:
    """Return the script for `bash` or `zsh`, which runs completions of bash; `helps` holds each command's help by its name."""
    values = {f"train:--{key}": words for key, words in _values().items()} | {"train:train": " ".join(recipe_names())}
    return _SCRIPT.format(
        shell=shell,
        before="autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else "",
        commands=" ".join(helps),
        values="\n".join(f"            {case}) words='{words}' ;;" for case, words in values.items()),
        options="\n".join(f"                {name}) words='{_options(name, text)}' ;;" for name, text in helps.items()),
    )


def _values() -> dict[str, str]:
    """Return the values of each key of a recipe that has a few: names, choices, true and false."""
    named = {f"{table.section}.name": "" for table in tables(RunConfig) if table.name}
    for table in tables(RunConfig):
        if table.name:
            named[f"{table.section}.name"] += f" {table.name}"
    said = {key: accepted(schema) for key, schema in all_fields(RunConfig).items() if key not in named}
    words = {key: [word for word in re.split(r" \| | or ", text) if word.isalnum()] for key, text in said.items()}
    few = {key: " ".join(words[key]) for key, text in said.items() if " | " in text}
    return {key: text.strip() for key, text in (named | few).items()}


def _options(name: str, text: str) -> str:
    """Return the options of a command, from its help; those of train are the keys of a recipe."""
    if name == "train":
        keys = [key for key in all_fields(RunConfig) if key.count(".") == 1]  # not those inside of an array
        return " ".join(["--help", "--dry-run", *(f"--{key}" for key in keys)])
    lines = [line.strip() for line in text.splitlines()]
    columns = [re.split(r"\s{2,}", line)[0] for line in lines if line.startswith("-")]  # without what is said of them
    return " ".join(
        sorted({option for column in columns for option in re.findall(r"--[a-z][a-z_-]*(?![\w.-])", column)})
    )
