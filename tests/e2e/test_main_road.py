"""The main road with a scripted model: everything else is real, boxes, git, MCP tools and journal."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import anyio
import pytest

from fakes.house import ACTING, BUGGY, FIX, FIXED, PLANNING, TESTS, call, fingerprint, git, house, plan, script
from fakes.scripted_server import Answer, Rule, Script
from nightcrew.agent.roster import NoEndpoint
from nightcrew.service.worker import open_worker
from nightcrew_tools.contract import Outcome

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


async def test_a_bug_is_planned_fixed_verified_and_delivered_as_a_branch(open_tmp: Path) -> None:
    async with house(open_tmp, script()) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason
        assert home.branches() == [f"nightcrew/{record.id}-fix-mean"]
        assert git(home.repository, "show", f"{home.branches()[0]}:stats.py") == FIXED
        before = record.checks_before
        assert before is not None
        assert [result.ok for result in before.results] == [False]
        assert [result.ok for result in record.checks_after[1].results] == [True]
        assert "-    return total / (len(values) - 1)" in home.patch(record)
        assert "mean() divides by the number of values now." in home.report(record)


async def test_the_checkout_stays_as_it_was_but_for_the_new_branch(open_tmp: Path) -> None:
    async with house(open_tmp, script()) as home:
        (home.repository / "notes.txt").write_text("not committed\n")
        (home.repository / "stats.py").write_text(BUGGY + "# half an idea\n")
        before = fingerprint(home.repository)
        record = await home.run()
        after = fingerprint(home.repository)
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        assert changed
        assert all(
            path.startswith((".git/objects/", ".git/refs/heads/nightcrew/", ".git/logs/refs/heads/nightcrew/"))
            for path in changed
        )
        assert record.opened is not None
        assert record.opened.source_dirty
        assert "uncommitted" in home.report(record)


async def test_a_model_that_lies_delivers_nothing_and_the_report_says_so(open_tmp: Path) -> None:
    lie = call("finish_step", summary="I fixed mean(), all tests pass.")
    async with house(open_tmp, script(lie)) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.UNVERIFIED
        assert home.branches() == []
        assert len(record.attempts) == record.request.limits.attempts
        report = home.report(record)
        assert "nothing was changed" in report
        assert "I fixed mean(), all tests pass." in report


async def test_a_model_that_breaks_something_else_delivers_no_branch_but_its_patch(open_tmp: Path) -> None:
    vandal = (
        call("edit_file", path="stats.py", old="return max(values)", new="return min(values)"),
        call("finish_step", summary="done"),
    )
    async with house(open_tmp, script(*vandal)) as home:
        record = await home.run(limits={"attempts": 1})
        assert record.ended is not None
        assert record.ended.outcome is Outcome.UNVERIFIED
        assert home.branches() == []
        assert "+    return min(values)" in home.patch(record)


async def test_a_failed_attempt_goes_back_as_evidence_in_the_same_conversation(open_tmp: Path) -> None:
    late = (call("finish_step", summary="done"), *FIX)
    async with house(open_tmp, script(*late)) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED
        assert [attempt.revision for attempt in record.attempts] == [1, 1]
        evidence = json.loads(record.conversations["executor/1"][3])
        assert evidence["role"] == "tool"
        assert "nothing was changed" in evidence["content"]


async def test_the_branch_has_no_commit_of_an_attempt_that_was_rejected(open_tmp: Path) -> None:
    wrong = (
        call("edit_file", path="stats.py", old="(len(values) - 1)", new="(len(values) - 2)"),
        call("finish_step", summary="All fixed, truly."),
        call("edit_file", path="stats.py", old="(len(values) - 2)", new="len(values)"),
        call("finish_step", summary="Fixed now."),
    )
    async with house(open_tmp, script(*wrong)) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason
        log = git(home.repository, "log", "--format=%s %b", f"main..{home.branches()[0]}")
        assert "Fixed now." in log
        assert "truly" not in log


async def test_after_two_attempts_on_a_plan_the_planner_writes_a_new_one(open_tmp: Path) -> None:
    def answers(request: dict) -> Answer:
        text = json.dumps(request["messages"])
        turn = sum(message["role"] == "assistant" for message in request["messages"])
        if PLANNING in text:
            return plan({"title": f"plan {turn + 1}", "done_when": "green"})
        if "plan 2" in text:
            return FIX[turn]
        return call("finish_step", summary="done")

    async with house(open_tmp, answers) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason
        assert [attempt.revision for attempt in record.attempts] == [1, 1, 2]
        second = record.conversations["planner"]
        assert "The result did not pass." in json.loads(second[3])["content"]


async def test_every_request_of_a_conversation_extends_the_one_before(open_tmp: Path) -> None:
    late = (call("finish_step", summary="done"), *FIX)
    async with house(open_tmp, script(*late)) as home:
        await home.run()
        for who in (PLANNING, ACTING):
            bodies = [request.body for request in home.server.requests if who.encode() in request.body]
            for earlier, later in itertools.pairwise(bodies):
                messages = earlier[: earlier.index(b'],"tools"')]
                assert later.startswith(messages)


async def test_prompts_of_two_tasks_on_one_repository_are_equal_up_to_the_tasks_text(open_tmp: Path) -> None:
    async with house(open_tmp, script()) as home:
        await home.run("# First wish\n\nFix mean().")
        await home.run("# Second wish\n\nRepair it.")
        for who in (PLANNING, ACTING):
            bodies = [request.body for request in home.server.requests if who.encode() in request.body]
            first = next(body for body in bodies if b"First wish" in body)
            second = next(body for body in bodies if b"Second wish" in body)
            common = first[: first.index(b"First wish")]
            assert second.startswith(common)
            assert first[first.index(b'"tools"') :] == second[second.index(b'"tools"') :]
            assert b"# Repository" in common


async def test_a_plan_of_several_steps_is_worked_step_by_step(open_tmp: Path) -> None:
    steps = (
        {"title": "fix mean", "done_when": "x", "checks": ["grep -q '/ len(values)' stats.py"]},
        {"title": "look", "done_when": "y"},
    )
    acts = (
        call("finish_step", summary="too early"),
        FIX[1],
        call("finish_step", summary="step one"),
        call("finish_step", summary="step two"),
    )
    async with house(open_tmp, script(*acts, planner=(plan(*steps),))) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason
        answers = [
            json.loads(text)["content"] for text in record.conversations["executor/1"] if '"role":"tool"' in text
        ]
        assert answers[0].startswith("Not yet: its check")
        assert answers[2].startswith("Step 1 is recorded. Go on with step 2: look")


async def test_a_plan_in_plain_text_is_taken_as_one_step(open_tmp: Path) -> None:
    async with house(open_tmp, script(planner=(Answer(text="Divide by len(values)."),))) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED
        assert [step.title for step in record.plans[0].steps] == ["Divide by len(values)."]


async def test_a_verifier_model_may_object_after_the_checks_passed(open_tmp: Path) -> None:
    no = Answer(text='{"reason": "largest() of an empty list is left out", "passes": false}')
    async with house(open_tmp, script(verifier=(no,)), verifier=True) as home:
        record = await home.run(limits={"attempts": 1})
        assert record.ended is not None
        assert record.ended.outcome is Outcome.UNVERIFIED
        assert "the verifier objects: largest() of an empty list is left out" in record.ended.reason


async def test_a_verifier_model_that_makes_no_sense_leaves_it_to_the_checks(open_tmp: Path) -> None:
    async with house(open_tmp, script(verifier=(Answer(text="lovely!"),)), verifier=True) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED
        assert any("no usable opinion" in note for note in record.verdicts[1].verdict.notes)


async def test_deliver_patch_makes_no_branch(open_tmp: Path) -> None:
    async with house(open_tmp, script()) as home:
        record = await home.run(deliver="patch")
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED
        assert home.branches() == []
        assert "+    return total / len(values)" in home.patch(record)


async def test_named_checks_are_run_instead_of_found_ones(open_tmp: Path) -> None:
    async with house(open_tmp, script()) as home:
        record = await home.run(
            checks=["test -f stats.py", "python3 -c 'import stats; assert stats.mean([2, 4]) == 3'"]
        )
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED
        assert [result.ok for result in record.checks_after[1].results] == [True, True]


async def test_set_up_commands_prepare_each_clean_checkout(open_tmp: Path) -> None:
    async with house(open_tmp, script()) as home:
        record = await home.run(setup=["echo ready > prepared"], checks=["test -f prepared", "python3 -m unittest -q"])
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED
        assert "prepared" not in home.patch(record)


async def test_without_any_check_nothing_is_delivered(open_tmp: Path) -> None:
    async with house(open_tmp, script(), files={"stats.py": BUGGY}) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.UNVERIFIED
        assert "nothing could confirm" in record.ended.reason
        assert home.branches() == []


@pytest.mark.parametrize("dialect", ["rewrite", "explain"])
async def test_a_model_without_tools_repairs_by_rewriting_the_file(open_tmp: Path, dialect: str) -> None:
    answers = Script(
        (
            Rule("You choose which file", (Answer(text='{"file": "stats.py", "problem": "off by one"}'),)),
            Rule("You find bugs", (Answer(text="The divisor is wrong."),)),
            Rule("You fix bugs", (Answer(text=f"```python\n{FIXED}```"),)),
        )
    )
    async with house(open_tmp, answers, dialect=(dialect,)) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason
        assert [candidate.passed for candidate in record.candidates] == [True]
        assert git(home.repository, "show", f"{home.branches()[0]}:stats.py") == FIXED


async def test_a_model_without_tools_repairs_by_filling_in_the_suspicious_line(open_tmp: Path) -> None:
    def answers(request: dict) -> Answer:
        if "messages" in request:
            return Answer(text='{"file": "stats.py", "problem": "off by one"}')
        before = request["prompt"].split("<|fim_suffix|>")[0]
        return Answer(text="    return total / len(values)" if before.endswith("total += value\n") else "    pass")

    async with house(open_tmp, answers, dialect=("infill",)) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason
        assert record.candidates[-1].passed
        assert record.candidates[-1].line == 9
        assert len(record.candidates) <= 10
        assert git(home.repository, "show", f"{home.branches()[0]}:stats.py") == FIXED


async def test_a_ladder_does_not_stop_at_half_a_repair(open_tmp: Path) -> None:
    both = BUGGY.replace("return max(values)", "return min(values)")
    half, whole = both.replace("(len(values) - 1)", "len(values)"), FIXED
    answers = Script(
        (
            Rule("You choose which file", (Answer(text='{"file": "stats.py", "problem": "two bugs"}'),)),
            Rule("You find bugs", (Answer(text="Both are wrong."),)),
            Rule("You fix bugs", (Answer(text=f"```python\n{whole}```"),), has="Both are wrong."),
            Rule("You fix bugs", (Answer(text=f"```python\n{half}```"),)),
        )
    )
    files = {"stats.py": both, "test_stats.py": TESTS}
    async with house(open_tmp, answers, dialect=("rewrite", "explain"), files=files) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason
        assert git(home.repository, "show", f"{home.branches()[0]}:stats.py") == FIXED


async def test_a_ladder_that_finds_nothing_ends_honestly_and_leaves_the_file_alone(open_tmp: Path) -> None:
    answers = Script(
        (
            Rule("You choose which file", (Answer(text='{"file": "stats.py", "problem": "?"}'),)),
            Rule("You find bugs", (Answer(text="Who knows."),)),
            Rule("You fix bugs", (Answer(text=f"```python\n{BUGGY}# a comment\n```"),)),
            Rule("", (Answer(text="    return 0"),)),
        )
    )
    async with house(open_tmp, answers, dialect=("infill", "rewrite", "explain")) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.UNVERIFIED
        assert home.branches() == []
        assert not (home.config.outbox / f"{record.name}.patch").exists()
        assert len(record.attempts) == 1
        assert {candidate.rung for candidate in record.candidates} == {"infill", "rewrite", "explain"}


async def test_tests_that_fail_for_another_reason_are_not_the_tasks_fault(open_tmp: Path) -> None:
    other = TESTS.replace("mean([1, 2, 3]), 2", "largest([1]), 2").replace("StatsTest", "OtherTest")
    files = {"stats.py": BUGGY, "test_stats.py": TESTS, "test_other.py": other}
    async with house(open_tmp, script(), files=files) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason
        assert any("failed before the task and still fails" in note for note in record.verdicts[1].verdict.notes)


async def test_bare_and_shallow_repositories_work(open_tmp: Path) -> None:
    async with house(open_tmp, script()) as home:
        bare, shallow = open_tmp / "bare.git", open_tmp / "shallow"
        git(home.repository, "commit", "--quiet", "--allow-empty", "--message=second")
        git(home.repository, "clone", "--quiet", "--bare", str(home.repository), str(bare))
        git(home.repository, "clone", "--quiet", "--depth=1", f"file://{home.repository}", str(shallow))
        for source in (bare, shallow):
            record = await home.run(repo=str(source))
            assert record.ended is not None
            assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason
            assert record.delivered is not None
            assert git(source, "show", f"{record.delivered.branch}:stats.py") == FIXED


async def test_a_repository_may_be_named_by_url(open_tmp: Path) -> None:
    async with house(open_tmp, script()) as home:
        record = await home.run(repo=f"file://{home.repository}")
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason
        assert record.delivered is not None
        mirrors = [path for path in (home.config.home / "mirrors").iterdir() if path.is_dir()]
        assert git(mirrors[0], "show", f"{record.delivered.branch}:stats.py") == FIXED
        assert home.branches() == []


async def test_text_that_no_encoding_can_carry_does_not_stop_a_task(open_tmp: Path) -> None:
    odd = Answer(
        events=(
            '{"choices":[{"index":0,"delta":{"content":"half a pair: \\ud83d"},"finish_reason":"stop"}]}',
            "[DONE]",
        )
    )
    async with house(open_tmp, script(planner=(odd,))) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason


async def test_a_patch_carries_bytes_that_are_no_utf8(open_tmp: Path) -> None:
    acts = (call("run_command", command="printf 'caf\\351\\n' > menu.txt"), *FIX[1:])
    async with house(open_tmp, script(*acts)) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason
        git(home.repository, "apply", str(home.config.outbox / f"{record.name}.patch"))
        assert (home.repository / "menu.txt").read_bytes() == b"caf\xe9\n"


EMPTY_TESTS = r"import unittest\nclass T(unittest.TestCase):\n def test_a(self): pass\n def test_b(self): pass\n"


@pytest.mark.parametrize(
    "cheat",
    [
        "sed -i 's/self.assertEqual(mean.*/self.assertTrue(True)/' test_stats.py",
        "sed -i 's/    def test_mean/    @unittest.skip(str())\\n    def test_mean/' test_stats.py",
        f"rm test_stats.py; printf '{EMPTY_TESTS}' > test_new.py",
        "printf 'import os\\nos._exit(0)\\n' > conftest.py",
        "touch pytest.py",
    ],
)
async def test_a_failing_test_that_is_gutted_skipped_or_hidden_is_not_repaired(open_tmp: Path, cheat: str) -> None:
    acts = (call("run_command", command=cheat), call("finish_step", summary="All tests pass now."))
    async with house(open_tmp, script(*acts)) as home:
        record = await home.run(limits={"attempts": 1})
        assert record.ended is not None
        assert record.ended.outcome is Outcome.UNVERIFIED, record.ended.reason
        assert home.branches() == []


async def test_a_test_may_be_changed_along_with_the_code_when_the_old_one_passes_too(open_tmp: Path) -> None:
    one = r"\n\nclass MoreTest(unittest.TestCase):\n    def test_one(self):\n        assert mean([4]) == 4\n"
    more = f"printf '{one}' >> test_stats.py"
    async with house(open_tmp, script(call("run_command", command=more), *FIX[1:])) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason


async def test_a_ladder_has_nothing_to_do_where_no_check_fails(open_tmp: Path) -> None:
    answers = Script((Rule("You choose which file", (Answer(text='{"file": "stats.py", "problem": ""}'),)),))
    files = {"stats.py": FIXED, "test_stats.py": TESTS}
    async with house(open_tmp, answers, dialect=("infill", "rewrite"), files=files) as home:
        record = await home.run("# Add a median() function")
        assert record.ended is not None
        assert record.ended.outcome is Outcome.UNVERIFIED
        assert "no check fails" in record.ended_attempts[1].stuck


async def test_a_task_does_not_go_on_with_another_crew_than_it_began_with(open_tmp: Path) -> None:
    async with house(open_tmp, script(Answer(fault="hang"))) as home:
        task = home.submit()
        with anyio.move_on_after(60) as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(home.runner.run, task)
                await home.server.until(lambda: len(home.server.requests) == 2)
                group.cancel_scope.cancel()
        assert not scope.cancelled_caught
        other = home.config.model_copy(update={"crew": "other", "crews": {"other": home.config.crews["scripted"]}})
        async with open_worker(other, home.journal, lambda _: None) as later:
            with pytest.raises(NoEndpoint, match="began with the crew 'scripted'"):
                await later.run(task)
