"""Tab completion of the command ``spectral-bench`` in bash, zsh and fish.

    eval "$(spectral-bench completion bash)"          in ~/.bashrc
    eval "$(spectral-bench completion zsh)"           in ~/.zshrc, after compinit
    spectral-bench completion fish | source           in ~/.config/fish/config.fish

Commands, groups and their files (optimizer=muon), values of a run (trainer.epochs=30), +sweeps=,
and the options of every other command. The shell calls the command for what fits, so that what you
add to conf/ and sweeps/ is offered at once.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path

from bench.main import COMMANDS, PROGRAM, USAGE_ERROR, run, split

# What the scripts below ask: the words after the command's name, the last one unfinished.
_ASK = "candidates"

_BASH = """\
_spectral_bench() {
    local line=${COMP_LINE:0:COMP_POINT} words one typed
    read -ra words <<< "$line"
    [[ $line == *[[:blank:]] ]] && words+=("")
    # Readline replaces what follows the last word break (= and : by default), not the whole word.
    one=${words[${#words[@]}-1]}
    typed=${one%"${one##*[$COMP_WORDBREAKS]}"}
    COMPREPLY=()
    while IFS= read -r one; do
        [[ $one == *[=./] ]] || one+=" "
        COMPREPLY+=("${one#"$typed"}")
    done < <("${words[0]}" completion ASK "${words[@]:1}" 2> /dev/null)
}
complete -o nospace -F _spectral_bench spectral-bench
"""
_ZSH = """\
_spectral_bench() {
    local -a found
    found=(${(f)"$("$words[1]" completion ASK "${(@)words[2,CURRENT-1]}" "$PREFIX" 2> /dev/null)"})
    compadd -- ${found:#*[=.\\/]}
    compadd -S '' -- ${(M)found:#*[=.\\/]}
}
compdef _spectral_bench spectral-bench
"""
_FISH = """\
function __spectral_bench
    set -l words (commandline -opc)
    $words[1] completion ASK $words[2..-1] (commandline -ct) 2> /dev/null
end
complete -c spectral-bench -f -a '(__spectral_bench)'
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}

_HYDRA_FLAGS = ("--cfg", "--help", "--multirun", "--resolve")


def candidates(arguments: Sequence[str]) -> list[str]:
    """Return what the last of ``arguments`` may become; they follow the name of the program."""
    *before, word = arguments or [""]
    before = before[1:] if before[:1] == ["help"] else before
    name, rest = split(before)
    if name is None:
        heads = [f"{' '.join(before)} " if before else "", word]
        known = [*COMMANDS, *(() if before else ("help", "--help", "--version"))]
        fitting = [one.removeprefix(heads[0]) for one in known if one.startswith("".join(heads))]
        return sorted({one.partition(" ")[0] for one in fitting})
    command = COMMANDS[name]
    # In a list of values (optimizer=adamw,mu) the last one is to be completed.
    key, equals, value = word.partition("=")
    done, comma, last = value.rpartition(",")
    asked = f"{key}{equals}{last}"
    if command.reader == "hydra":
        offers = _of_hydra(rest, asked)
    elif command.reader == "options":
        offers = _of_options(name, rest, asked)
    else:
        offers = [shell for shell in SCRIPTS if not rest]
    offers = [one for one in offers if one.startswith(asked)]
    if equals and not offers:
        offers = [f"{key}={path}" for path in _paths(last)]
    head = f"{key}{equals}"
    return [f"{head}{done}{comma}{one.removeprefix(head)}" for one in offers]


def _of_hydra(before: Sequence[str], word: str) -> list[str]:
    """Return what Hydra offers: groups and values of a run, and the sweeps."""
    if word.startswith("-"):
        return list(_HYDRA_FLAGS)
    from bench.compose import LAUNCH_OPTIONS, composing, spelled_out
    from bench.hydra_private import complete, without_plugins

    top = not {"=", ".", "/"} & set(word)
    options = [f"{name}=" for name in LAUNCH_OPTIONS] if top else []
    without_plugins()  # ours import torch, which takes seconds
    with composing() as loader:
        offers = complete(loader, "train", spelled_out(before), word)
    offered = [one for one in offers if not top or _is_offered(one)]
    for one in list(offered):
        key, _, value = one.partition("=")
        if value in ("true", "false"):  # the value that it has: the other one is what is wanted
            offered = [f"{key}=true", f"{key}=false"]
    sweeps = ["+sweeps="] if top else []
    return sorted({*offered, *options, *sweeps})


def _is_offered(name: str) -> bool:
    """Whether a key or group may stand first: the folders beside conf/ are groups to Hydra."""
    return name[-1] in "=." and not name.startswith(("+", "~", "sweeps"))


def _of_options(name: str, before: Sequence[str], word: str) -> list[str]:
    """Return what a command of bench/options.py offers; ``parse`` prints it and leaves."""
    from bench.options import COMPLETE

    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        run(COMMANDS[name], [*before, COMPLETE, word])
    return printed.getvalue().split()


def _paths(text: str) -> Iterator[str]:
    """Yield the files and folders that begin with ``text``; none with a blank in its name."""
    head, slash, start = text.rpartition("/")
    folder = Path(f"{head}{slash}" or ".").expanduser()
    with suppress(OSError):
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            hidden = entry.name.startswith(".") and not start.startswith(".")
            if entry.name.startswith(start) and not hidden and len(entry.name.split()) == 1:
                yield f"{head}{slash}{entry.name}{'/' if entry.is_dir() else ''}"


def main(arguments: Sequence[str]) -> int:
    """Print a shell's script, or what fits; return the exit status."""
    if arguments[:1] == [_ASK]:
        with suppress(Exception):  # what cannot be composed has no completions
            for candidate in candidates(arguments[1:]):
                print(candidate)
        return 0
    if len(arguments) == 1 and arguments[0] in SCRIPTS:
        print(SCRIPTS[arguments[0]].replace("ASK", _ASK), end="")
        return 0
    if arguments in ([], ["--help"], ["-h"]):
        print((__doc__ or "").strip())
        return 0
    print(
        f"error: {' '.join(arguments)}: write {PROGRAM} completion bash, zsh or fish",
        file=sys.stderr,
    )
    return USAGE_ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
