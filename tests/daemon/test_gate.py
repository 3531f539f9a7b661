"""What waits for a person's word: the gate's rules, from paths, modes, lines and the checks' own results."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcrew.config import load_config
from nightcrew.delivery.gate import Settings, concerns, merely_noted
from nightcrew.delivery.patches import FileChange, changed_files, with_lines
from nightcrew.domain import Check, CheckResult, summarised
from nightcrew.errors import ConfigError
from nightcrew_tools.contract import CONCERNS, Concern
from nightcrew_workspaces.harvest import ChangedFile


def change(path: str, *lines: str, **fields: object) -> FileChange:
    values: dict[str, object] = {
        "added": sum(line[0] == "+" for line in lines),
        "removed": sum(line[0] == "-" for line in lines),
        "size": sum(len(line) for line in lines if line[0] == "+"),
    }
    return FileChange(path=path, lines=lines, **(values | fields))


def result(
    command: str = "python3 -m pytest -q",
    *,
    passed: int | None = 3,
    failing: tuple[str, ...] = (),
    output: str = "",
    source: str = "repository",
) -> CheckResult:
    return CheckResult.model_validate(
        {
            "check": Check.model_validate({"command": command, "source": source}),
            "exit_code": 0,
            "ended": "exited",
            "output": output,
            "seconds": 0.1,
            "failing": failing,
            "passed_tests": passed,
        }
    )


def kinds(*files: FileChange, check: str = "python3 -m pytest -q") -> set[str]:
    return {concern.kind for concern in concerns(files, [result(check)], [result(check)])}


# --- names


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (".github/workflows/ci.yml", "ci"),
        (".github/actions/build/action.yml", "ci"),
        ("packages/app/.github/workflows/ci.yml", "ci"),
        (".GitHub/Workflows/CI.yml", "ci"),
        (".git\u200chub/workflows/ci.yml", "ci"),
        ("\uff0egithub/workflows/ci.yml", "ci"),
        (".github./workflows /ci.yml", "ci"),
        (".gitlab-ci.yml", "ci"),
        ("ci/deploy.gitlab-ci.yml", "ci"),
        ("Jenkinsfile", "ci"),
        ("deploy/Jenkinsfile.prod", "ci"),
        (".circleci/config.yml", "ci"),
        ("azure-pipelines.yml", "ci"),
        (".travis.yml", "ci"),
        (".buildkite/pipeline.yml", "ci"),
        (".woodpecker.yaml", "ci"),
        (".drone.star", "ci"),
        (".tekton/run.yaml", "ci"),
        ("bitbucket-pipelines.yml", "ci"),
        (".appveyor.yml", "ci"),
        (".cirrus.yml", "ci"),
        (".ci/run", "ci"),
        ("ci/run.sh", "ci"),
        (".forgejo/workflows/x.yaml", "ci"),
        ("CODEOWNERS", "ci"),
        (".husky/pre-commit", "hooks"),
        (".githooks/anything", "hooks"),
        (".pre-commit-config.yaml", "hooks"),
        ("lefthook.yml", "hooks"),
        ("scripts/pre-push", "hooks"),
        ("scripts/commit-msg.py", "hooks"),
        ("uv.lock", "lock-files"),
        ("poetry.lock", "lock-files"),
        ("web/package-lock.json", "lock-files"),
        ("npm-shrinkwrap.json", "lock-files"),
        ("yarn.lock", "lock-files"),
        ("pnpm-lock.yaml", "lock-files"),
        ("bun.lock", "lock-files"),
        ("bun.lockb", "lock-files"),
        ("Cargo.lock", "lock-files"),
        ("go.sum", "lock-files"),
        ("Gemfile.lock", "lock-files"),
        ("composer.lock", "lock-files"),
        ("gradle.lockfile", "lock-files"),
        ("flake.lock", "lock-files"),
        ("mix.lock", "lock-files"),
        ("Package.resolved", "lock-files"),
        ("requirements-dev.txt", "lock-files"),
        (".gitattributes", "git-settings"),
        ("sub/.gitattributes", "git-settings"),
        (".gitmodules", "git-settings"),
        (".lfsconfig", "git-settings"),
        ("AGENTS.md", "tool-settings"),
        ("docs/CLAUDE.md", "tool-settings"),
        (".cursorrules", "tool-settings"),
        (".cursor/rules/x.mdc", "tool-settings"),
        (".github/copilot-instructions.md", "tool-settings"),
        (".mcp.json", "tool-settings"),
        (".vscode/tasks.json", "tool-settings"),
        (".devcontainer/devcontainer.json", "tool-settings"),
        (".envrc", "tool-settings"),
        (".npmrc", "tool-settings"),
        (".cargo/config.toml", "tool-settings"),
        ("sitecustomize.py", "tool-settings"),
        ("conftest.py", "checks"),
        ("tests/conftest.py", "checks"),
        ("pytest.ini", "checks"),
        ("tox.ini", "checks"),
        ("jest.config.mjs", "checks"),
        (".mocharc.json", "checks"),
        ("pytest.py", "checks"),
        ("unittest/__init__.py", "checks"),
        ("argparse.py", "checks"),
        ("tests/re.py", "checks"),
    ],
)
def test_a_file_of_this_name_waits(path: str, kind: str) -> None:
    assert kind in kinds(change(path, "+x", status="added"))


@pytest.mark.parametrize(
    "path",
    [
        "src/shop/cart.py",
        "src/hooks/useCart.ts",
        "src/ci/model.py",
        "lib/update.py",
        "shop/types.py",
        "shop/logging.py",
        "docs/ci.md",
        ".github/ISSUE_TEMPLATE/bug.md",
        ".github/FUNDING.yml",
        ".gitignore",
        "README.md",
        "blocks.py",
        "src/lock.ts",
        "environment.py",
        "tests/test_new.py",
        "tests/data/input.json",
        "src/latest.py",
        "docker-compose.yml",
    ],
)
def test_an_ordinary_file_does_not_wait(path: str) -> None:
    assert kinds(change(path, "+x = 1", status="added")) == set()


def test_a_sensitive_file_that_is_renamed_away_or_deleted_waits_too() -> None:
    moved = change(".github/old.txt", status="renamed", old_path=".github/workflows/ci.yml")
    assert "ci" in kinds(change("ci.txt", status="renamed", old_path=".github/workflows/ci.yml"))
    assert "ci" in kinds(moved)
    assert "hooks" in kinds(change(".pre-commit-config.yaml", "-repos: []", status="deleted"))


def test_the_folder_where_the_source_keeps_its_hooks_waits() -> None:
    file = change("Tools/run-me", "+x")
    assert concerns([file]) == ()
    [concern] = concerns([file], settings=Settings(hooks_folder="tools"))
    assert (concern.kind, concern.path) == ("hooks", "Tools/run-me")
    assert concerns([change("toolset/run-me", "+x")], settings=Settings(hooks_folder="tools")) == ()


@pytest.mark.parametrize("line", ["+\tgit config core.hooksPath .x", "+[core] hookspath = evil", "+cp x .git/hooks/x"])
def test_a_line_that_tells_git_of_hooks_waits_wherever_it_stands(line: str) -> None:
    assert "hooks" in kinds(change("setup.sh", line))
    assert kinds(change("setup.sh", line.replace("+", "-", 1))) == set()


# --- modes and contents


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"mode": "120000", "status": "added"}, "symlinks"),
        ({"mode": "120000", "old_mode": "120000"}, "symlinks"),
        ({"mode": "120000", "old_mode": ""}, "symlinks"),
        ({"mode": "", "old_mode": "120000"}, "symlinks"),
        ({"mode": "100755", "status": "added"}, "executables"),
        ({"mode": "100755", "old_mode": "100644"}, "executables"),
        ({"mode": "160000", "status": "added"}, "git-settings"),
        ({"mode": "160000", "old_mode": "160000"}, "git-settings"),
        ({"added": None, "removed": None}, "binary-files"),
        ({"size": 1024 * 1024 + 1}, "large-files"),
        ({"unread": True}, "large-files"),
    ],
)
def test_what_a_file_is_can_make_it_wait(fields: dict, kind: str) -> None:
    assert kind in kinds(change("src/thing", **fields))


@pytest.mark.parametrize(
    ("line", "waits"), [("+a\x01b", True), ("+\x1b[2J", True), ("-a\x01b", False), ("+a\tb\r\f", False)]
)
def test_bytes_that_no_text_has_wait_although_git_takes_them_for_text(line: str, waits: bool) -> None:
    assert ("binary-files" in kinds(change("blob.dat", line))) is waits


def test_an_executable_that_only_changes_and_a_deleted_binary_do_not_wait() -> None:
    assert kinds(change("run", "+x", mode="100755", old_mode="100755")) == set()
    assert kinds(change("logo.png", status="deleted", added=None, removed=None)) == set()
    assert kinds(change("run", mode="100644", old_mode="100755")) == set()


def test_the_size_of_a_large_file_can_be_set() -> None:
    file = change("data.csv", size=5000)
    assert concerns([file], settings=Settings(large_kib=4))[0].why == "brings 4 KiB, more than 4"
    assert concerns([file], settings=Settings(large_kib=5)) == ()


# --- tests


ASSERT = ("-def test_a():", "-    assert f(1) == 2")


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        ("tests/test_a.py", ASSERT),
        ("tests/test_a.py", ("-    assert f(1) == 2",)),
        ("tests/test_a.py", ("-    assert f(1) == 2", "+    # assert f(1) == 2")),
        ("tests/test_a.py", ("-    assert f(1) == 2", "+    assert f(1)")),
        ("tests/test_a.py", ("-    assert f(1) == 2", "+    assert True")),
        ("tests/test_a.py", ("-    self.assertEqual(f(1), 2)", "+    self.assertIsNotNone(f(1))")),
        ("tests/test_a.py", ("+    assert f(1) == 2 or True",)),
        ("tests/test_a.py", ("-def test_a():", "+def check_a():")),
        ("tests/test_a.py", ("+@pytest.mark.skip",)),
        ("tests/test_a.py", ("+@pytest.mark.xfail(reason='x')",)),
        ("tests/test_a.py", ("+    pytest.skip('later')",)),
        ("tests/test_a.py", ("+@unittest.skipIf(True, '')",)),
        ("tests/test_a.py", ("+    @unittest.expectedFailure",)),
        ("tests/test_a.py", ("+    self.skipTest('x')",)),
        ("tests/test_a.py", ("+__test__ = False",)),
        ("tests/test_a.py", ("+os._exit(0)",)),
        ("src/a.test.ts", ("-  it('adds', () => {", "+  it.skip('adds', () => {")),
        ("src/a.test.ts", ("+describe.only('x', () => {",)),
        ("src/a.test.ts", ("-  expect(add(1, 2)).toBe(3)", "+  expect(add(1, 2)).toBeDefined()")),
        ("src/a.spec.js", ("+xit('adds', () => {})",)),
        ("pkg/a_test.go", ('+\tt.Skip("flaky")',)),
        ("pkg/a_test.go", ('-\t\tt.Errorf("got %d", x)',)),
        ("pkg/a_test.go", ("-func TestAdd(t *testing.T) {",)),
        ("pkg/a_test.go", ("+//go:build never",)),
        ("src/lib.rs", ("+    #[ignore]",)),
        ("src/lib.rs", ("-    #[test]",)),
        ("src/lib.rs", ("-        assert_eq!(add(1, 2), 3);",)),
        ("src/test/java/CartTest.java", ("+    @Disabled",)),
        ("src/main/java/CartTest.java", ("-    @Test",)),
        ("spec/cart_spec.rb", ("-  it 'adds' do",)),
        ("spec/cart_spec.rb", ("+    skip 'later'",)),
        ("test/CartTest.php", ("+        $this->markTestSkipped();",)),
        ("tests/cart_test.cc", ("+  GTEST_SKIP();",)),
        ("tests/cart.bats", ('-@test "adds" {',)),
    ],
)
def test_tests_that_lose_something_wait(path: str, lines: tuple[str, ...]) -> None:
    assert "tests" in kinds(change(path, *lines))


@pytest.mark.parametrize(
    "files",
    [
        [change("tests/test_new.py", "+def test_a():", "+    assert f(1) == 2", status="added")],
        [change("tests/test_new.py", "+@pytest.mark.skipif(os.name == 'nt')", "+def test_a():", status="added")],
        [change("tests/test_a.py", "+def test_b():", "+    assert f(2) == 3")],
        [change("tests/test_a.py", "-    assert f(1) == 2", "+    assert f(1) == 3")],
        [change("tests/test_a.py", *ASSERT), change("tests/test_b.py", "+def test_a():", "+    assert f(1) == 2")],
        [
            change("tests/test_a.py", *ASSERT, status="deleted"),
            change("tests/unit/test_b.py", "+def test_a():", "+    assert f(1) == 2", status="added"),
        ],
        [change("tests/unit/test_a.py", status="renamed", old_path="tests/test_a.py")],
        [change("tests/test_a.py", "-def test_a():", "+def test_a_of_one():")],
        [change("tests/test_a.py", "-    assert f(1) == 2", "+        assert f(1) == 2")],
        [change("tests/test_a.py", "-from nose import assert_equal", "+from unittest import TestCase")],
        [change("src/shop.py", "-    assert x == 1", "-    skip(1)")],
        [change("src/lib.rs", '-    let x = y.expect("no");', "+    let x = items.iter().skip(1);")],
        [change("tests/data.json", '-  "expect": 1')],
    ],
)
def test_tests_that_are_added_moved_renamed_or_brought_up_to_date_do_not_wait(files: list[FileChange]) -> None:
    assert kinds(*files) == set()


def test_a_deleted_test_file_and_one_that_is_renamed_out_of_sight_wait() -> None:
    assert "tests" in kinds(change("tests/test_a.py", *ASSERT, status="deleted"))
    assert "tests" in kinds(change("tests/helpers.py", "-x = 1", status="deleted"))
    assert "tests" in kinds(change("tests/a.py", status="renamed", old_path="tests/test_a.py"))
    assert "tests" in kinds(change("old/a_case.py", status="renamed", old_path="tests/test_a.py"))
    assert "tests" in kinds(change("tests/test_a.py.txt", status="renamed", old_path="tests/test_a.py"))


def counts(before: CheckResult, after: CheckResult) -> list[str]:
    return [concern.why for concern in concerns([], [before], [after])]


def test_the_checks_own_numbers_are_believed() -> None:
    assert counts(result(passed=10, failing=("a", "b")), result(passed=11)) == ["ran 11 tests, and 12 before"]
    assert counts(result(passed=10), result(passed=None)) == ["no longer says how many tests it ran"]
    skipping = result(output="10 passed, 2 skipped in 0.1s")
    assert counts(result(output="10 passed in 0.1s"), skipping) == ["skipped 2 tests, and 0 before"]
    assert counts(result(output="OK"), result(output="Ran 3 tests in 0.1s\n\nOK (skipped=1)")) == [
        "skipped 1 tests, and 0 before"
    ]
    assert counts(skipping, skipping) == []
    assert counts(result(passed=10), result(passed=12)) == []
    assert counts(result(passed=9, source="plan"), result(passed=1, source="plan")) == []


# --- what the checks are


@pytest.mark.parametrize(
    ("check", "path", "line"),
    [
        ("make test", "Makefile", "+\ttrue"),
        ("make test", "rules/more.mk", "+x"),
        ("make -C sub test", "sub/GNUmakefile", "+x"),
        ("./check.sh", "Makefile", "+x"),
        ("./check.sh", "check.sh", "+exit 0"),
        ("bash scripts/check.sh --fast", "scripts/check.sh", "+exit 0"),
        ("cd app && sh ./run-tests", "run-tests", "+exit 0"),
        ("python3 tools/verify.py", "tools/verify.py", "+x"),
        ("python3 -m tools.verify", "tools/verify.py", "+x"),
        ("python3 tests/test_a.py", "tests/test_a.py", "+def main(): pass"),
        ("npm test", "package.json", '+    "test": "true"'),
        ("npm test", "package.json", '+    "te\\u0073t": "true"'),
        ("python3 -m pytest -q", "pyproject.toml", '+addopts = "-k nothing"'),
        ("python3 -m pytest -q", "pyproject.toml", '+    "--deselect=tests/test_a.py",'),
        ("python3 -m pytest -q", "setup.cfg", "+addopts = -x"),
        ("cargo test", "Cargo.toml", "+test = false"),
        ("cargo test", "build.rs", "+fn main() {}"),
        ("go test ./...", "go.work", "+use ./other"),
        ("gradle test", "app/build.gradle.kts", "+x"),
        ("mvn -q test", "pom.xml", "+x"),
        ("rake test", "Rakefile", "+x"),
        ("just test", "justfile", "+x"),
        ("ctest", "CMakeLists.txt", "+x"),
    ],
)
def test_what_decides_the_checks_waits(check: str, path: str, line: str) -> None:
    assert "checks" in kinds(change(path, line), check=check)


@pytest.mark.parametrize(
    ("check", "path", "line"),
    [
        ("python3 -m pytest -q", "Makefile", "+docs:"),
        ("python3 -m pytest -q tests/test_a.py", "tests/test_a.py", "+x = 1"),
        ("test -f stats.py", "stats.py", "+x"),
        ("grep -q x src/a.py && python3 -m pytest", "src/a.py", "+x"),
        ("npm test", "package.json", '+    "left-pad": "^1.3.0",'),
        ("npm test", "package.json", '-  "version": "1.0.0",'),
        ("python3 -m pytest -q", "pyproject.toml", '+    "httpx>=0.27",'),
        ("python3 -m pytest -q", "pyproject.toml", '+version = "1.2"'),
        ("cargo test", "Cargo.toml", '+serde = { version = "1", features = ["derive"] }'),
        ("cargo test", "src/main.rs", "+fn main() {}"),
    ],
)
def test_what_does_not_decide_the_checks_does_not_wait(check: str, path: str, line: str) -> None:
    assert kinds(change(path, line), check=check) == set()


def test_a_manifest_that_is_deleted_waits() -> None:
    assert "checks" in kinds(change("pyproject.toml", '-version = "1"', status="deleted"))


# --- all together


def test_what_git_lists_counts_whatever_the_patch_looks_like() -> None:
    listed = [
        ChangedFile("A", ".github/workflows/x.yml", 1, 0, None, "000000", "100644"),
        ChangedFile("T", "link", 1, 1, None, "100644", "120000"),
        ChangedFile("M", "big.txt", 9, 0, None, "100644", "100644"),
    ]
    patch = (
        "diff --git a/link b/link\ndeleted file mode 100644\n--- a/link\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
        "diff --git a/link b/link\nnew file mode 120000\n--- /dev/null\n+++ b/link\n@@ -0,0 +1 @@\n+/etc\n"
        "diff --git a/.github/workflows/x.yml b/.github/workflows/x.yml\nnew file mode 100644\n"
        "@@ -0,0 +1 @@\n+on: push\n"
    )
    files = with_lines(listed, patch)
    assert [file.lines for file in files] == [("+on: push",), ("-x", "+/etc"), ()]
    assert {(c.kind, c.path) for c in concerns(files)} == {
        ("ci", ".github/workflows/x.yml"),
        ("symlinks", "link"),
        ("large-files", "big.txt"),
    }


def test_the_size_of_a_binary_file_is_its_new_one() -> None:
    patch = (
        "diff --git a/x.bin b/x.bin\nindex 1..2 100644\nGIT binary patch\nliteral 2000000\nzcmb\n\nliteral 5\nzcmb\n\n"
    )
    [file] = changed_files(patch)
    assert (file.size, file.added) == (2_000_000, None)
    assert {concern.kind for concern in concerns([file])} == {"binary-files", "large-files"}


def test_what_only_deserves_a_look_is_noted_apart() -> None:
    files = [change("tests/test_a.py", "+x = 1"), change("Makefile", "+x:"), change(".gitignore", "+*.o")]
    assert merely_noted(files) == [
        ("Tests changed", ["tests/test_a.py"]),
        ("Build settings changed", ["Makefile"]),
        ("What git ignores changed", [".gitignore"]),
    ]


def test_concerns_are_summed_up_by_kind() -> None:
    many = [Concern(kind="ci", path=f"{n}.yml", why="") for n in range(5)]
    text = summarised([*many, Concern(kind="tests", path="t.py", why="")])
    assert text == "CI files changed: 0.yml, 1.yml, 2.yml and 2 more; Tests deleted or weakened: t.py"
    assert summarised([]) == ""


@settings(max_examples=100, deadline=None)
@given(st.lists(st.builds(change, st.text(min_size=1, max_size=30), status=st.sampled_from(["added", "modified"]))))
def test_any_path_can_be_judged(files: list[FileChange]) -> None:
    assert {concern.kind for concern in concerns(files)} <= set(CONCERNS)


@settings(max_examples=200, deadline=1000)
@given(st.text(alphabet="()[]{}\"'`.=!# \tabstexpectassertskip|&0", max_size=3000))
def test_any_line_of_a_test_is_judged_quickly(text: str) -> None:
    line = "+" + text.replace("\n", " ")
    concerns([change("tests/test_a.py", line), change("pyproject.toml", line), change("package.json", line)])


# --- the configuration


def test_kinds_may_be_allowed_by_name_and_others_are_refused(tmp_path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[gate]\nallow = ["lock-files", "ci"]\nlarge_file_kib = 10\n')
    config = load_config({"NIGHTCREW_CONFIG": str(path)})
    assert (config.gate.allow, config.gate.large_file_kib) == (("lock-files", "ci"), 10)
    path.write_text('[gate]\nallow = ["lockfiles"]\n')
    with pytest.raises(ConfigError, match=r"gate\.allow\.0.*'lock-files'"):
        load_config({"NIGHTCREW_CONFIG": str(path)})
