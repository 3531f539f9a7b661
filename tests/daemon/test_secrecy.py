"""What is hidden, and what is left alone."""

from __future__ import annotations

import hashlib
import json

import pytest

from nightcrew.config import Config, RoleSettings, load_config, read_key
from nightcrew.errors import ConfigError, TaskFileError
from nightcrew.events import EVENT, Waiting, without_secrets
from nightcrew.secrecy import HIDDEN, SECRETS, Secrets, without_login
from nightcrew.service.door import validate
from nightcrew_tools.contract import TaskRequest


@pytest.fixture
def secrets() -> Secrets:
    return Secrets()


def test_a_known_value_is_hidden_wherever_it_stands(secrets: Secrets) -> None:
    secrets.add("sk-0123456789")
    secrets.add("sk-0123456789-longer")
    assert secrets.hide("key=sk-0123456789-longer, sk-0123456789.") == f"key={HIDDEN}, {HIDDEN}."
    assert secrets.hide_values("xsk-0123456789x") == f"x{HIDDEN}x"


def test_a_value_is_found_as_json_writes_it(secrets: Secrets) -> None:
    secrets.add('pass"wörd\\12')
    assert json.loads(secrets.hide_values(json.dumps({"a": 'x pass"wörd\\12'}))) == {"a": f"x {HIDDEN}"}


def test_short_values_and_plain_text_are_left_alone(secrets: Secrets) -> None:
    secrets.add("cat")
    text = "cat, https://example.org/a@b, ann@example.org, basic understanding, bearer of news, authorization"
    assert secrets.hide(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "https://ann:hunter2@example.org/x.git",
        "proxy http://hunter2@proxy:3128 refused",
        "Authorization: Bearer hunter2hunter2",
        '{"authorization": "Basic hunter2"}',
        "('Authorization', 'Bearer hunter2')",
        "bearer hunter2hunter2hunter2",
    ],
)
def test_logins_and_headers_are_hidden_without_being_known(secrets: Secrets, text: str) -> None:
    assert "hunter2" not in secrets.hide(text)
    assert HIDDEN in secrets.hide(text)


def test_a_token_is_found_by_its_hash(secrets: Secrets) -> None:
    token = "Zk3_4-abcdefghijklmnopqrstuvwx"
    secrets.add_digests([hashlib.sha256(token.encode()).digest()])
    assert secrets.hide(f"got {token}. and {token[:-1]}") == f"got {HIDDEN} and {token[:-1]}"


@pytest.mark.parametrize("before", ["", "got ", "\n", "\t", "\\", "é", "TOKEN=", "http://host/", '"', "a\r\n"])
def test_a_token_is_found_whatever_stands_before_it_and_in_json_too(secrets: Secrets, before: str) -> None:
    token = "Zk3_4-abcdefghijklmnopqrstuvwx"
    secrets.add_digests([hashlib.sha256(token.encode()).digest()])
    for text in (f"{before}{token}", json.dumps(f"{before}{token}"), json.dumps(json.dumps(f"{before}{token}\n"))):
        assert token not in secrets.hide_values(text)


def test_passwords_of_urls_are_known_plain_and_decoded(secrets: Secrets) -> None:
    secrets.add_url("http://ann:p%40ssw0rd9@proxy:3128")
    assert secrets.hide("p@ssw0rd9 p%40ssw0rd9 ann") == f"{HIDDEN} {HIDDEN} ann"
    secrets.add_url("https://ghp_0123456789@example.org")
    assert secrets.hide("ghp_0123456789") == HIDDEN
    assert without_login("m @ http://a:b@h/v1") == "m @ http://h/v1"


def test_an_event_is_stored_without_what_is_known() -> None:
    SECRETS.add("sk-in-an-event-1")
    event = Waiting(reason='401: "sk-in-an-event-1" is no key')
    assert without_secrets(event) == Waiting(reason=f'401: "{HIDDEN}" is no key')
    assert EVENT.validate_json(event.model_dump_json()) == event


def test_a_password_that_is_one_of_our_own_words_breaks_nothing() -> None:
    secrets = "nightcrew_waiting_kind"
    SECRETS.add(secrets)
    event = Waiting(reason="nothing")
    assert without_secrets(event) is event


def test_the_configuration_and_the_environment_are_known_once_loaded(tmp_path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        '[network]\nproxy = "http://ann:proxypass-1@proxy:1"\n'
        '[crews.one.planner]\nbase_url = "http://ann:basepass-1@host/v1"\n'
    )
    load_config({"NIGHTCREW_CONFIG": str(path), "HOME": "/", "HTTPS_PROXY": "http://ann:envpass-12@p:1"})
    assert SECRETS.hide_values("proxypass-1 basepass-1 envpass-12") == f"{HIDDEN} {HIDDEN} {HIDDEN}"


def test_a_key_may_be_a_credential_of_systemd(tmp_path) -> None:
    role = RoleSettings(base_url="http://host/v1", api_key_credential="devstral")
    (tmp_path / "key_devstral").write_text("sk-credential-1\n")
    key = read_key(role, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert key is not None and key.get_secret_value() == "sk-credential-1"
    (tmp_path / "devstral").write_text("sk-credential-2")  # one of its own goes before the folder's
    key = read_key(role, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert key is not None and key.get_secret_value() == "sk-credential-2"
    assert SECRETS.hide_values("sk-credential-1") == HIDDEN


@pytest.mark.parametrize("environ", [{}, {"CREDENTIALS_DIRECTORY": "/nonexistent"}])
def test_a_credential_that_is_not_there_is_told(environ: dict) -> None:
    role = RoleSettings(base_url="http://host/v1", api_key_credential="devstral")
    with pytest.raises(ConfigError, match="devstral"):
        read_key(role, environ)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden"])
def test_a_credential_is_a_name_and_no_path(name: str) -> None:
    with pytest.raises(ValueError, match="name of a credential"):
        RoleSettings(base_url="http://host/v1", api_key_credential=name)


@pytest.mark.anyio
@pytest.mark.parametrize("url", ["https://ann:hunter22@example.org/x.git", "https://ghp_0123456789@example.org/x"])
async def test_a_repository_with_a_password_in_its_url_is_refused_without_repeating_it(tmp_path, url: str) -> None:
    request = TaskRequest(title="t", text="t", repo=url)
    with pytest.raises(TaskFileError, match="netrc") as refused:
        await validate(Config(home=tmp_path), request)
    assert "hunter22" not in str(refused.value)
    assert "ghp_" not in str(refused.value)


@pytest.mark.anyio
@pytest.mark.parametrize("url", ["ssh://git@example.org/x.git", "git@example.org:x.git", "https://example.org/x"])
async def test_a_repository_with_an_account_and_no_password_is_fine(tmp_path, url: str) -> None:
    await validate(Config(home=tmp_path), TaskRequest(title="t", text="t", repo=url))
