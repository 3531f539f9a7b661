from __future__ import annotations

import pytest

from nightcrew_tools.output import ANSWER_BYTES

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


async def test_the_diff_shows_changed_and_new_files_against_the_beginning(session):
    async with session() as tools:
        assert await tools("git_diff") == "no changes"
        await tools("edit_file", path="src/sums.py", old="a - b", new="a + b")
        await tools("write_file", path="new.txt", content="new\n")
        await tools("write_file", path="noise.log", content="ignored\n")
        for _ in range(2):  # the second time everything is committed: the beginning stays the beginning
            diff = await tools("git_diff")
            assert "-    return a - b\n+    return a + b\n" in diff
            assert "--- /dev/null\n+++ b/new.txt\n" in diff
            assert "noise.log" not in diff
            await tools("git_commit", message="Add")
        assert "new.txt" not in await tools("git_diff", path="src")
        assert await tools("git_diff", path="README.md") == "no changes in README.md"


async def test_looking_at_the_diff_leaves_the_index_alone(session):
    async with session() as tools:
        await tools("write_file", path="new.txt", content="new\n")
        await tools("git_diff")
        assert "?? new.txt" in await tools("git_status")


async def test_a_large_diff_begins_with_a_summary_and_says_how_to_see_the_rest(session):
    async with session() as tools:
        for name in ("a", "b"):
            await tools("write_file", path=f"{name}.txt", content=f"{name}\n" * 9000)
        diff = await tools("git_diff")
        assert len(diff.encode()) < ANSWER_BYTES + 100
        assert diff.startswith(" a.txt | 9000 ++")
        assert diff.endswith("]")
        offset = int(diff.rpartition("go on with offset=")[2].removesuffix("]"))
        assert (await tools("git_diff", offset=offset)).startswith("+a\n+a\n")


async def test_status_names_changed_files_and_counts_commits(session):
    async with session() as tools:
        assert await tools("git_status") == "nothing changed since the last commit\n[0 commits since the task began]"
        await tools("write_file", path="README.md", content="x\n")
        assert await tools("git_status") == " M README.md\n[0 commits since the task began]"
        assert (await tools("git_commit", message="Say x")).endswith(
            " Say x, 1 file changed, 1 insertion(+), 1 deletion(-)"
        )
        assert (await tools("git_status")).endswith("\n[1 commit since the task began]")


async def test_a_branch_without_a_commit_has_a_status_too(session):
    async with session() as tools:
        await tools("run_command", command="git checkout -q --orphan fresh")
        assert (await tools("git_status")).endswith("\n[no commits since the task began]")
        assert await tools("git_diff") == "no changes"


async def test_a_message_that_looks_like_an_option_is_a_message(session):
    async with session() as tools:
        await tools("write_file", path="README.md", content="x\n")
        assert " --amend," in await tools("git_commit", message="--amend")
        log = (await tools("git_log")).splitlines()
        assert log[0].endswith(": --amend")
        assert log[1].endswith(" Ann: First commit")
        assert await tools("git_log", limit=1) == log[0]


async def test_nothing_to_commit_is_an_answer_and_no_error(session):
    async with session() as tools:
        assert (await tools("git_commit", message="Nothing")).startswith("nothing to commit: ")


async def test_restore_brings_back_the_last_commit(session):
    async with session() as tools:
        await tools("write_file", path="README.md", content="x\n")
        await tools("delete_file", path="src/sums.py")
        assert await tools("git_restore", path="README.md") == "restored README.md to the last commit"
        assert await tools("git_status") == " D src/sums.py\n[0 commits since the task began]"
        assert await tools("git_restore", path="src") == "restored src to the last commit"
        assert (await tools("git_status")).startswith("nothing changed")


async def test_a_new_file_cannot_be_restored_and_the_answer_says_what_removes_it(session):
    async with session() as tools:
        await tools("write_file", path="new.txt", content="x\n")
        answer = await tools.fail("git_restore", path="new.txt")
        assert answer == "error[not_found]: 'new.txt' is not in the last commit; delete_file removes a new file"


@pytest.mark.parametrize("path", ["--source=HEAD~1", "-p"])
async def test_a_path_that_looks_like_an_option_is_refused(session, path):
    async with session() as tools:
        for name in ("git_diff", "git_restore"):
            answer = await tools.fail(name, path=path)
            assert answer.startswith("error[bad_argument]: path ")
            assert answer.endswith(f"; write ./{path} if it is a file's name")


async def test_a_file_whose_name_begins_with_a_dash_can_be_named(session):
    async with session() as tools:
        await tools("write_file", path="-p", content="x\n")
        assert "+++ b/-p\n" in await tools("git_diff", path="./-p")
        await tools("git_commit", message="Add")
        await tools("write_file", path="-p", content="y\n")
        assert await tools("git_restore", path="./-p") == "restored -p to the last commit"
        assert await tools("read_file", path="-p") == "-p lines 1-1 of 1\nx\n"


async def test_a_path_is_a_path_and_no_pattern(session):
    async with session() as tools:
        await tools("write_file", path="README.md", content="x\n")
        assert await tools("git_diff", path="*.md") == "no changes in *.md"
        assert await tools("git_diff", path=":(exclude)x") == "no changes in :(exclude)x"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("git_commit", {"message": " \n"}), ("git_log", {"limit": 0}), ("git_log", {"limit": 10**6})],
)
async def test_arguments_out_of_range_are_refused(session, name, arguments):
    async with session() as tools:
        assert (await tools.fail(name, **arguments)).startswith("error[bad_argument]: ")


async def test_a_lock_left_behind_is_explained(session):
    async with session() as tools:
        await tools("write_file", path="README.md", content="x\n")
        await tools("run_command", command="touch .git/index.lock")
        assert "then remove .git/index.lock" in await tools.fail("git_commit", message="x")


async def test_a_poisoned_repository_runs_nothing_outside_the_box(session, open_tmp):
    mark = open_tmp / "escaped"
    async with session() as tools:
        await tools("run_command", command=f"git config core.fsmonitor 'touch {mark}; false'; echo x >> README.md")
        for name in ("git_status", "git_diff", "git_log"):
            await tools(name)
    assert not mark.exists()
