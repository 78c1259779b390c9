"""``metadeblur completion``: what makes the Tab key complete commands, flags and their values."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import tyro

from metadeblur.cli.presets import preset_names

_COLUMNS = "128"  # of the help: wider ones have several groups side by side


@dataclass(frozen=True)
class Completion:
    """Print the script that makes Tab complete this program's commands, flags and their values in a shell.

    bash: metadeblur completion bash > ~/.local/share/bash-completion/completions/metadeblur (make the folder first).
    zsh: into a file _metadeblur in a folder of $fpath. fish: into ~/.config/fish/completions/metadeblur.fish.
    """

    shell: Annotated[Literal["bash", "zsh", "fish"], tyro.conf.Positional]
    """The shell."""

    def run(self) -> None:
        """Print the script."""
        print({"bash": bash, "zsh": zsh, "fish": fish}[self.shell](every_command()), end="")


@dataclass(frozen=True)
class Flag:
    """A flag as the help tells it."""

    names: tuple[str, ...]  # such as -o and --output; those of a pair, such as --adapt and --no-adapt
    takes: str  # what its value is called; empty: it takes none
    values: tuple[str, ...]  # that it may have, where they are few
    text: str
    group: str  # heading that it stands under

    @property
    def is_path(self) -> bool:
        """Whether its value may be a file or folder."""
        return re.search(r"FILE|DIR|OUT|PATH|WEIGHTS|STR", self.takes) is not None


@dataclass(frozen=True)
class Words:
    """What may follow a command."""

    summary: str
    flags: tuple[Flag, ...]
    values: tuple[str, ...]  # of the word without a flag, where they are few


def every_command() -> dict[str, Words]:
    """The flags of every command, and the words that may follow it."""
    from metadeblur.cli.entry import COMMANDS
    from metadeblur.pipeline.catalogue import names

    known = {"--model": names(), "presets NAME": preset_names(), "models NAME...": names()}
    return {name: words_of(name, entry.summary, known) for name, entry in COMMANDS.items()}


def words_of(command: str, summary: str, known: Mapping[str, Sequence[str]] | None = None) -> Words:
    """What may follow a command, read off its help.

    Args:
        command: its name.
        summary: what it does.
        known: values that the help does not list, of flags by their name and of words by command and name.
    """
    flags: list[Flag] = []
    values: tuple[str, ...] = ()
    group = ""
    for line in _lines(help_of(command)):
        if heading := re.fullmatch(r" ?((?:\w.* )?(?:options|arguments))", line):
            group = heading[1]
        elif re.match(r"  -", line):
            invocation, _, text = line.strip().partition("  ")
            flags.append(_flag(invocation, text.strip(), group, known or {}))
        elif re.match(r"    +\S", line) and flags and group != "positional arguments":
            flags.append(replace(last := flags.pop(), text=f"{last.text} {line.strip()}".strip()))
        elif re.match(r"  \S", line) and group == "positional arguments":
            word = line.strip().partition("  ")[0]
            values = _listed(word) or tuple((known or {}).get(f"{command} {word}", ()))
    return Words(summary, tuple(flags), values)


def _lines(text: str) -> Iterator[str]:
    """The lines of a help, without those that are drawn around its groups."""
    for line in text.translate({ord("│"): " ", **dict.fromkeys(map(ord, "╭╮╰╯"), None), ord("─"): "-"}).splitlines():
        plain = re.sub(r"^- (.*?) -+$", r" \1", line).rstrip()
        if plain.strip("- "):
            yield plain


def help_of(command: str) -> str:
    """The help of a command, in one column."""
    from metadeblur.cli.entry import parse

    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = _COLUMNS
    try:
        with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.suppress(SystemExit):
            parse([*command.split(), "--help"])
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return told.getvalue()


def _flag(invocation: str, text: str, group: str, values: Mapping[str, Sequence[str]]) -> Flag:
    """A flag from the two columns of the help, such as ``-o OUT, --output OUT`` and its text."""
    pieces = [piece.partition(" ") for piece in re.split(r", (?=-)", invocation)]
    names = tuple(piece[0] for piece in pieces)
    takes = next((piece[2] for piece in pieces if piece[2]), "")
    known: Sequence[str] = _listed(takes) or next((values[name] for name in names if name in values), ())
    if not known and re.fullmatch(r"[a-z0-9]+(\|[a-z0-9:N]+)+", takes):  # auto|cpu|cuda|cuda:N
        known = [value for value in takes.split("|") if ":" not in value]
    return Flag(names, takes, tuple(known), text, group)


def _listed(takes: str) -> tuple[str, ...]:
    """The choices that a help lists in braces.

    >>> _listed("{bash,zsh,fish}"), _listed("FILE")
    (('bash', 'zsh', 'fish'), ())
    """
    listed = re.fullmatch(r"\{([^{}\[\]]+)\}", takes)
    return tuple(listed[1].split(",")) if listed else ()


# --- scripts -------------------------------------------------------------------------------------------------------


def _groups(commands: Mapping[str, Words]) -> dict[str, list[str]]:
    """The first words of commands of two, with the second ones."""
    groups: dict[str, list[str]] = {}
    for name in commands:
        first, _, second = name.partition(" ")
        if second:
            groups.setdefault(first, []).append(second)
    return groups


def _first_words(commands: Mapping[str, Words]) -> list[str]:
    return list(dict.fromkeys(name.split()[0] for name in commands))


def bash(commands: Mapping[str, Words]) -> str:
    """The script for bash."""
    groups = _groups(commands)
    seconds = "\n".join(f'            {first}) words="{" ".join(rest)}" ;;' for first, rest in groups.items())
    followed, flags, plain = [], [], []
    for name, words in commands.items():
        for flag in filter(lambda flag: flag.takes, words.flags):
            cases = "|".join(f'"{name} {one}"' for one in flag.names)
            quiet = "" if flag.values or flag.is_path else " compopt +o default 2>/dev/null;"
            followed.append(f'        {cases}) value=1;{quiet} words="{" ".join(flag.values)}" ;;')
        flags.append(f'            "{name}") words="{" ".join(one for flag in words.flags for one in flag.names)}" ;;')
        if words.values:
            plain.append(f'            "{name}") words="{" ".join(words.values)}" ;;')
    return _BASH.format(
        first=" ".join([*_first_words(commands), "--help", "--version"]),
        groups="|".join(groups),
        seconds=seconds,
        followed="\n".join(followed),
        flags="\n".join(flags),
        plain="\n".join(plain),
    )


_BASH = """\
# What makes Tab complete metadeblur in bash. Where nothing is listed, names of files are completed.
_metadeblur() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} command=${{COMP_WORDS[1]}} words= value=
    if [[ $cur == "=" ]]; then
        cur=
    elif [[ $prev == "=" ]]; then
        prev=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W "{first}" -- "$cur"))
        return
    fi
    case $command in {groups})
        if ((COMP_CWORD == 2)); then
            case $command in
{seconds}
            esac
            COMPREPLY=($(compgen -W "$words" -- "$cur"))
            return
        fi
        command="$command ${{COMP_WORDS[2]}}" ;;
    esac
    case "$command $prev" in
{followed}
    esac
    if [[ -z $value && $cur == -* ]]; then
        case $command in
{flags}
        esac
    elif [[ -z $value ]]; then
        case $command in
{plain}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o default -F _metadeblur metadeblur
"""


def zsh(commands: Mapping[str, Words]) -> str:
    """The script for zsh."""
    groups = _groups(commands)
    first = [f"    {_quoted(f'{name}:{_summary(commands, name)}')}" for name in _first_words(commands)]
    seconds, cases = [], []
    for group, rest in groups.items():
        listed = " ".join(_quoted(f"{second}:{commands[f'{group} {second}'].summary}") for second in rest)
        seconds.append(f"      {group}) commands=({listed}) ;;")
    for name, words in commands.items():
        lines = [_zsh_flag(flag) for flag in words.flags]
        lines.append(f"'*:word:({' '.join(words.values)})'" if words.values else "'*:file:_files'")
        arguments = " \\\n      ".join(lines)
        cases.append(f"    {_quoted(name)})\n      _arguments -s \\\n      {arguments} ;;")
    return _ZSH.format(
        first="\n".join(first), groups="|".join(groups), seconds="\n".join(seconds), cases="\n".join(cases)
    )


_ZSH = """\
#compdef metadeblur
# What makes Tab complete metadeblur in zsh.
_metadeblur() {{
  local -a commands
  commands=(
{first}
  )
  if ((CURRENT == 2)); then
    _describe command commands
    return
  fi
  local command=$words[2]
  case $command in {groups})
    if ((CURRENT == 3)); then
      case $command in
{seconds}
      esac
      _describe command commands
      return
    fi
    command="$command $words[3]"
    shift words
    ((CURRENT--)) ;;
  esac
  shift words
  ((CURRENT--))
  case $command in
{cases}
  esac
}}
if [[ $funcstack[1] == _metadeblur ]]; then
  _metadeblur "$@"
else
  compdef _metadeblur metadeblur
fi
"""


def _zsh_flag(flag: Flag) -> str:
    """A flag as ``_arguments`` of zsh takes it, one word for each of its names."""
    said = re.sub(r"([\[\]:\\])", r"\\\1", _short(flag.text))
    takes = ""
    if flag.takes:
        choices = f"({' '.join(flag.values)})" if flag.values else ("_files" if flag.is_path else " ")
        if flag.values and flag.is_path:
            choices = rf"{{_alternative 'names\:name\:{choices}' 'files\:file\:_files'}}"  # a bare : would end it
        takes = f":{flag.names[-1].lstrip('-')}:{choices}"
    return " ".join(_quoted(f"{name}[{said}]{takes}") for name in flag.names)


def fish(commands: Mapping[str, Words]) -> str:
    """The script for fish."""
    lines = ["# What makes Tab complete metadeblur in fish.", "complete -c metadeblur -n __fish_use_subcommand -f"]
    groups = _groups(commands)
    for name in _first_words(commands):
        said = _quoted(_summary(commands, name), fish=True)
        lines.append(f"complete -c metadeblur -n __fish_use_subcommand -a {name} -d {said}")
    for group, rest in groups.items():
        none_yet = f"__fish_seen_subcommand_from {group}; and not __fish_seen_subcommand_from {' '.join(rest)}"
        for second in rest:
            said = _quoted(commands[f"{group} {second}"].summary, fish=True)
            lines.append(f"complete -c metadeblur -n '{none_yet}' -f -a {second} -d {said}")
    for name, words in commands.items():
        here = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in name.split())
        lines += [f"complete -c metadeblur -n '{here}' {_fish_flag(flag)}" for flag in words.flags]
        if words.values:
            lines.append(f"complete -c metadeblur -n '{here}' -f -a '{' '.join(words.values)}'")
    return "\n".join(lines) + "\n"


def _fish_flag(flag: Flag) -> str:
    """A flag as ``complete`` of fish takes it."""
    names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names]
    takes = ""
    if flag.takes:
        takes = (" -r -F" if flag.is_path else " -x") + (f" -a '{' '.join(flag.values)}'" if flag.values else "")
    return f"{' '.join(names)}{takes} -d {_quoted(_short(flag.text), fish=True)}"


def _summary(commands: Mapping[str, Words], word: str) -> str:
    """What the first word of a command does."""
    if word in commands:
        return commands[word].summary
    return ", ".join(name.partition(" ")[2] for name in commands if name.startswith(f"{word} "))


def _short(text: str) -> str:
    """The first clause of a text: what there is room for beside a flag.

    >>> _short("Video encoder; auto: H.264, or H.265 for more than 8 bits. (default: auto)")
    'Video encoder'
    """
    return re.split(r"[;:.] |\.$| \(", text)[0]


def _quoted(text: str, *, fish: bool = False) -> str:
    """Text as one word of a shell, in single quotes."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'") if fish else text.replace("'", "'\\''")
    return f"'{escaped}'"
