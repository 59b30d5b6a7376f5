"""Every flag of every command, given what it cannot take: exit code 2, one line that names the flag, nothing written.

Flags come from the parser, so that a new one is covered by itself; if it takes what others of its type don't, it belongs into a table below."""
import typing
from pathlib import Path

import pytest

from clip_help_simclr import benchmarks, experiments, training
from clip_help_simclr.cli import build_parser, main, running
from clip_help_simclr.data import load_data

COMMANDS = build_parser()._subcommands_action._name_parser_map
REQUIRED = dict(  # a right command line of each command
    demo=[], embed=["--data=digits", "--guide=labels", "--out=out"], audit=["--data=digits", "--guide=labels"], pretrain=["--data=digits"],
    probe=["--checkpoint=checkpoint", "--data=digits"], export=["--checkpoint=checkpoint", "--out=out"], bench=["losses"], experiment=["strategies"])

HUGE = "1" + "0" * 30
NO_TEXT = ["", " "]
NO_NUMBER = ["abc", "", "nan", "inf", "-inf", "[]", "[1]", "{}", "true", "null"]
NO_WHOLE = [*NO_NUMBER, "1.5", "-1", "0", HUGE, "-" + HUGE]
NO_REAL = [*NO_NUMBER, "-1", "0", "1e400"]
NO_CHOICE = ["nonsense", "", "[]", "0", "null"]
NO_BOOL = ["nonsense", "", "[]", "3", "null"]
NO_ROWS = ["", "3", "abc", "[]", "[a]", "[-1]", "[0]", "[1.5]", "[.nan]", f"[{HUGE}]", "[[64]]", "null"]
NO_PAIR = ["", "3", "abc", "[]", "[1]", "[0.1,0.2,0.3]", "[a,b]", "[.nan,1]", "[-1,1]", "[1,0.5]", "[0.5,2]", "null"]
NO_NAMES = dict(  # texts that are no name of anything
    data=["nonsense", "folder", "folder:nowhere", "digits:x", "webdataset:nowhere.tar", "cifar10:nowhere"], guide=["nonsense", "labels:abc", "labels:2", "labels:nan", "cache", "cache:nowhere", "openclip", "captions:nowhere"],
    device=["nonsense", "cuda:99"], name=["nonsense", "Strategies", "0"], encoder=["nonsense"], strategy=["nonsense", "AddNewPositive(weight='a')", "AddNewPositive(", "SimCLR("], loss=["nonsense"], optimizer=["nonsense"],
    precision=["nonsense"], tracker=["nonsense"], split=["nonsense"], checkpoint=["nonsense"], out=["file", "file/below", "a" * 300])
NO_NAMES["import"] = ["nonsense", "nonsense.module", "json,", ",", "json,nonsense", "1", "file"]
RIGHT = dict(  # what some flags take, though others of their type don't
    workers=["0"], neighbours=["0"], seed=["0", "-1"], weight_decay=["0"], warmup=["0"], labelled=["0"], checkpoint_minutes=["0"],
    **{f"augment.{name}": ["0"] for name in ("flip", "jitter", "gray", "blur", "strength")})
ABOVE_ONE = ("captioned", "labelled", "warmup", "augment.flip", "augment.gray", "augment.jitter")  # shares
LATE = [("pretrain", "encoder")]  # names that are looked up only when the data are there: see `test_wrong_encoder`
PARSERS = {}  # made once, not once per value


def flags():
    "All flags of all commands."
    for command, parser in COMMANDS.items():
        for action in parser._actions:
            if action.dest not in ("help", "print_config", "augment"): yield command, action


def is_optional(action):
    return type(None) in typing.get_args(action._typehint)


def wrong_values(action):
    "Values that a flag cannot take."
    if action.dest == "config": return ["", "nowhere.yaml", "."]
    hint = getattr(action, "_typehint", None)
    if hint is None: return ["3"]  # a switch takes none
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)] if is_optional(action) else [hint]
    table = {int: NO_WHOLE, float: NO_REAL, bool: NO_BOOL, str: NO_TEXT}
    kind = kinds[0]
    if typing.get_origin(kind) is typing.Literal: values = NO_CHOICE
    elif typing.get_origin(kind) is list: values = NO_ROWS
    elif typing.get_origin(kind) is tuple: values = NO_PAIR
    else: values = table[kind]
    values = values + NO_NAMES.get(action.dest, []) + ["1.5"] * (action.dest in ABOVE_ONE)
    right = RIGHT.get(action.dest, []) + ["null"] * is_optional(action)
    return [value for value in dict.fromkeys(values) if value not in right]


class Accepted(AssertionError):
    "A command began its work."


def accepted(*args, **kwargs):
    raise Accepted("the value was accepted")


@pytest.fixture(autouse=True)
def no_work(tmp_path, monkeypatch):
    "Right values lead to no work, in an empty folder with one file."
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    read_checkpoint = training.read_checkpoint
    def loads(spec, **options): return accepted() if spec == "digits" else load_data(spec, **options)
    def reads(path): return ({"config": {"augment": {"size": 32}}}, {}) if path == "checkpoint" else read_checkpoint(path)
    monkeypatch.setattr("clip_help_simclr.data.load_data", loads)
    monkeypatch.setattr("clip_help_simclr.demo.runs.load_data", loads)
    monkeypatch.setattr(training, "read_checkpoint", reads)
    load_encoder, export_encoder = training.load_encoder, training.export_encoder
    monkeypatch.setattr(training, "load_encoder", lambda path: None if path == "checkpoint" else load_encoder(path))
    monkeypatch.setattr(training, "export_encoder", lambda path, *rest, **options: accepted() if path == "checkpoint" else export_encoder(path, *rest, **options))
    def parser_of(only):
        if only[0] not in PARSERS: PARSERS[only[0]] = build_parser(only)
        return PARSERS[only[0]]
    monkeypatch.setattr(running, "build_parser", parser_of)
    for module, name in ((benchmarks, "bench_losses"), (benchmarks, "bench_cache"), (experiments, "run_trials")): monkeypatch.setattr(module, name, accepted)


def call(capsys, command, arguments):
    "Exit code and standard error of a command, which must not leave anything."
    code = main([command, *arguments])
    out, err = capsys.readouterr()
    assert out == ""
    assert [path.name for path in Path().iterdir()] == ["file"]
    return code, err


def command_line(command, action, *given):
    "The required arguments of a command, one of them replaced."
    flag = f"--{action.dest}="
    if action.option_strings: return [*[a for a in REQUIRED[command] if not a.startswith(flag)], *given]
    return list(given)


def spelling(action):
    return action.option_strings[0] if action.option_strings else action.dest


def refused(capsys, command, action, *given):
    code, err = call(capsys, command, command_line(command, action, *given))
    assert code == 2, (given, err)
    assert err.count("\n") == 1 and err.endswith("\n"), (given, err)
    assert err.startswith(f"chs {command}: error: {spelling(action)}"), (given, err)


@pytest.mark.parametrize("command, action", flags(), ids=lambda value: value if isinstance(value, str) else value.dest)
def test_wrong_values(command, action, capsys):
    values = wrong_values(action)
    assert values
    for value in values:
        if (command, action.dest) in LATE and value.strip(): continue
        if not action.option_strings: refused(capsys, command, action, value)
        elif action.nargs == 0: refused(capsys, command, action, spelling(action), value)
        else: refused(capsys, command, action, f"{spelling(action)}={value}")
    if action.option_strings and action.nargs != 0:
        refused(capsys, command, action, spelling(action))  # no value
        if "-1" in values: refused(capsys, command, action, spelling(action), "-1")
    if action.option_strings and action.dest != "config": refused(capsys, command, action, *2 * ([spelling(action)] if action.nargs == 0 else [f"{spelling(action)}=1"]))


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_and_missing(command, capsys):
    for wrong in ("--nonsense", "--nonsense=3", "-x"):
        code, err = call(capsys, command, [*REQUIRED[command], wrong])
        assert code == 2 and err.startswith(f"chs {command}: error: {wrong.partition('=')[0]}: there is no such flag"), err
        assert err.count("\n") == 1
    for k, left_out in enumerate(REQUIRED[command]):
        code, err = call(capsys, command, REQUIRED[command][:k] + REQUIRED[command][k + 1:])
        name = left_out.partition("=")[0] if left_out.startswith("--") else COMMANDS[command]._positionals._group_actions[0].dest
        assert code == 2 and name in err and "missing" in err and err.count("\n") == 1, err


@pytest.mark.parametrize("command", COMMANDS)
def test_right_values_are_accepted(command, capsys):
    "Or the tests above would pass for a command that refuses everything."
    with pytest.raises(Accepted): main([command, *REQUIRED[command]])


@pytest.mark.parametrize("command", COMMANDS)
def test_files_of_wrong_values(command, capsys, tmp_path_factory):
    "The same values from a configuration file: the name of the flag, and that of the file."
    file = tmp_path_factory.mktemp("config") / "run.yaml"
    for of, action in flags():
        if of != command or not action.option_strings or action.dest == "config": continue
        file.write_text(f"{action.dest}: {{}}\n" if "." not in action.dest else f"augment: {{{action.dest.partition('.')[2]}: {{}}}}\n")
        code, err = call(capsys, command, command_line(command, action, f"--config={file}"))
        assert code == 2 and err.count("\n") == 1, (action.dest, err)
        assert err.startswith(f"chs {command}: error: {spelling(action)} (in {file}): expected"), (action.dest, err)


@pytest.mark.parametrize("command", ["demo", "pretrain"])
def test_wrong_encoder(command, capsys, monkeypatch):
    monkeypatch.setattr("clip_help_simclr.data.load_data", load_data)
    code = main([command, *REQUIRED[command], "--encoder=nonsense"])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and err.startswith(f"chs {command}: error: --encoder: ") and err.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["file"]
