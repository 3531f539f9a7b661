from __future__ import annotations

import pytest

from nightcrew_tools.tokens import TokenFileError, make_token_file, read_tokens

GOOD = "0123456789abcdefghij"


def write(tmp_path, text: str, mode: int = 0o600):
    path = tmp_path / "tokens"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_token_has_a_scope_and_a_name(tmp_path):
    tokens = read_tokens(
        write(tmp_path, f"{GOOD}\n  {GOOD}1 read-only  ide # no comment here\n".replace(" # no comment here", ""))
    )
    assert tokens.find(GOOD).scope == "full"
    assert (tokens.find(f"{GOOD}1").scope, tokens.find(f"{GOOD}1").name) == ("read-only", "ide")
    assert tokens.scopes == {"full", "read-only"}


@pytest.mark.parametrize("presented", ["", GOOD[:-1], GOOD + "x", GOOD.upper(), "\udcff"])
def test_a_token_that_is_not_there_is_not_found(tmp_path, presented):
    assert read_tokens(write(tmp_path, GOOD)).find(presented) is None


def test_a_token_is_not_kept_in_the_clear(tmp_path):
    assert GOOD not in repr(vars(read_tokens(write(tmp_path, GOOD))))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_a_file_that_others_may_read_or_write_is_refused(tmp_path, mode):
    with pytest.raises(TokenFileError, match="chmod 600"):
        read_tokens(write(tmp_path, GOOD, mode))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# nothing\n\n", "there is no token in it"),
        ("short\n", "line 1: a token has 20 characters at least"),
        (f"\n{GOOD} admin\n", "line 2: write TOKEN"),
        (f"{GOOD} full a b\n", "line 1: write TOKEN"),
        (f"{GOOD} full na/me\n", "line 1: write TOKEN"),
        (f"{GOOD} full a\n{GOOD} read-only b\n", "twice"),
        (f"{GOOD} full a\n{GOOD}x full a\n", "same name"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path, text, words):
    with pytest.raises(TokenFileError, match=words):
        read_tokens(write(tmp_path, text))


def test_a_file_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(TokenFileError, match="cannot be read"):
        read_tokens(tmp_path / "none")


def test_a_made_file_has_one_token_and_is_never_overwritten(tmp_path):
    path = tmp_path / "sub" / "tokens"
    make_token_file(path)
    token = path.read_text().split()[0]
    assert read_tokens(path).find(token).scope == "full"
    assert len(token) >= 40
    with pytest.raises(FileExistsError):
        make_token_file(path)
