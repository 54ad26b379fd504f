"""Is a misspelt command answered with the right one, and a fault with our sentence?"""

import sys

import pytest
import tyro

from regvit_jax.command_line import check_arguments, in_our_words
from regvit_jax.errors import InputError

COMMANDS = ("norms", "attention", "report")


def test_a_misspelt_command_is_answered_with_the_one_that_was_meant():
    with pytest.raises(InputError, match=r"no command 'norm'\. Did you mean norms\?"):
        check_arguments(["norm", "--data", "x"], COMMANDS, "regvit-analyze")


def test_a_word_like_none_of_the_commands_is_answered_with_all():
    with pytest.raises(InputError, match=r"'xyz'\. There are: norms, attention, report\."):
        check_arguments(["xyz"], COMMANDS, "regvit-analyze")


@pytest.mark.parametrize("arguments", [["--out", ""], ["--out="], ["--data", "", "--out", "x"]])
def test_an_empty_place_is_named(arguments):
    with pytest.raises(InputError, match="is empty. Name a file or a folder"):
        check_arguments(["norms", *arguments], COMMANDS, "regvit-analyze")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["norms", "--out", "x", "--show", ""]])
def test_what_is_well_passes(arguments):
    check_arguments(arguments, COMMANDS, "regvit-analyze")


class Count:
    """A number with a check of ours."""

    def __init__(self, count: int) -> None:
        if count < 1:
            raise InputError(f"count must be at least 1, got {count}.")
        self.count = count


def parse(arguments):
    def run(count: Count) -> int:
        return count.count

    with in_our_words("tool", *arguments[:1]):
        return tyro.extras.subcommand_cli_from_dict(
            {"run": run, "walk": run}, args=arguments, prog="tool"
        )


def test_our_own_check_speaks_without_a_box(capsys):
    with pytest.raises(InputError, match="^count must be at least 1, got 0.$"):
        parse(["run", "--count.count", "0"])
    assert capsys.readouterr().err == ""


def test_a_box_names_the_help_of_the_command(capsys):
    with pytest.raises(SystemExit):
        parse(["run", "--count.count", "many"])
    box = capsys.readouterr().err
    assert "many" in box
    assert "tool run --help" in box
    assert len({len(line) for line in box.splitlines() if line}) == 1  # the box is still square


def test_what_a_command_writes_meanwhile_passes(capsys):
    with in_our_words("tool", "run"):
        sys.stderr.write("progress\n")
    assert capsys.readouterr().err == "progress\n"
