"""Ask the model for a job's plan, and for one answer made of its steps' results."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Sequence

from pibot.contracts import Completion, LLMClient, Message, SubTask, TaskComplexity, TaskPlan, TaskResult, Usage
from pibot.contracts.validation import MAX_SKILLS_PER_TASK
from pibot.errors import LLMError, LLMTooLong, PlanError
from pibot.llm_client.thinking import split_thinking
from pibot.logs import event
from pibot.master_components.planner.plan_reading import read_plan
from pibot.master_components.planner.prompts import (
    BUILT_IN_SKILLS,
    MAX_STEPS,
    MISSING_MARK,
    Skill,
    plan_prompt,
    replan_prompt,
    summary_prompt,
)
from pibot.master_components.planner.results import MAX_RESULTS_CHARS, as_data, listed
from pibot.master_components.planner.step_reading import NO_STEPS, EarlierSteps
from pibot.master_components.planner.wording import NOTHING

log = logging.getLogger("pibot.planner")

CUT = "(The model's answer was cut off here, at its length limit.)"
"""Added to a summary that the model could not finish."""


_MISSING = re.compile(
    rf"^[ \t*_`#>-]*{MISSING_MARK[:-1]}[ \t*_`]*[:：]((?:.|\n(?![ \t]*\n))*)", re.IGNORECASE | re.MULTILINE
)
_NOTHING_MISSING = re.compile(
    r"(?:none|nothing|n/a|无|没有)\s?(?:[.,;:(—–-]|(?:is |else |more )?missing\b)", re.IGNORECASE
)


class TaskPlanner:
    """Plans jobs and sums up their results.

    Args:
        llm_client: the model.
        skills: the skills that a plan may name; the built-in ones by default.
        soul: the master's own instructions, the text of ``soul.md``.
        max_steps: how many steps a plan may have.
    """

    def __init__(
        self,
        llm_client: LLMClient,
        *,
        skills: Sequence[Skill] = BUILT_IN_SKILLS,
        soul: str = "",
        max_steps: int = MAX_STEPS,
    ) -> None:
        self._llm = llm_client
        self._skills = tuple(skills)
        self._soul = soul.strip()
        self._max_steps = max_steps

    async def analyze_task(self, description: str) -> TaskPlan:
        """Plan a job; see :meth:`analyze`."""
        plan, _ = await self.analyze(description)
        return plan

    async def analyze(self, description: str) -> tuple[TaskPlan, Usage]:
        """Plan a job, and return the tokens that this used.

        An unusable plan goes back to the model once, with what is wrong. If the second one is unusable too, the plan
        is one step with the whole job, and its ``note`` says so.

        Raises:
            LLMError: the model call failed.
        """
        system = plan_prompt(self._soul, self._skills, self._max_steps)
        plan, usage, problem = await self._ask(system, description, NO_STEPS)
        return plan or self._fallback(description, problem), usage

    async def replan(
        self, description: str, results: Sequence[tuple[SubTask, TaskResult]], missing: str = ""
    ) -> tuple[TaskPlan | None, Usage]:
        """Ask what to do instead after a step has failed, or to get what an answer lacks; return the tokens too.

        Args:
            results: of all steps that have ended, whatever plan they come from.
            missing: what the answer lacks; empty after a failure.

        Returns:
            The further steps; or, without steps, an answer that says what could not be done; None if the model's plan
            was unusable twice.

        Raises:
            LLMError: the model call failed.
        """
        system = replan_prompt(self._soul, self._skills, self._max_steps)
        finished = {step.task_id: step.description for step, result in results if result.success}
        earlier = EarlierSteps(finished, frozenset(step.task_id for step, _ in results))
        plan, usage, _ = await self._ask(system, as_data(description, results, missing=missing, whole=True), earlier)
        return plan, usage

    async def _ask(self, system: str, request: str, earlier: EarlierSteps) -> tuple[TaskPlan | None, Usage, str]:
        """Ask for a plan, at most twice; return it, the tokens, and why there is none."""
        messages = [Message("system", system), Message("user", request)]
        usage = Usage()
        problem = ""
        for _ in range(2):
            completion = await self._llm.complete(messages)
            usage += completion.usage
            try:
                return self._read(completion, earlier), usage, ""
            except PlanError as exc:
                problem = str(exc)
                event(log, "plan_refused", level=logging.WARNING, problem=problem)
                messages += [
                    Message("assistant", completion.text),
                    Message(
                        "user", f"That plan can't be used: {problem}. Answer with the corrected JSON object alone."
                    ),
                ]
        return None, usage, problem

    async def compose(self, description: str, results: Sequence[tuple[SubTask, TaskResult]]) -> tuple[str, Usage]:
        """Make one answer of the results of a job's steps, and return the tokens that this used.

        A single result is the answer as it is. If the model call fails, the answer lists the results. An answer that
        the model could not finish says so at its end.
        """
        text, _, usage = await self._sum_up(summary_prompt(self._soul), description, results)
        return text, usage

    async def judge(self, description: str, results: Sequence[tuple[SubTask, TaskResult]]) -> tuple[str, str, Usage]:
        """Like :meth:`compose`, with the same model calls, but also return what the answer lacks, between the two."""
        return await self._sum_up(summary_prompt(self._soul, judges=True), description, results)

    async def _sum_up(
        self, system: str, description: str, results: Sequence[tuple[SubTask, TaskResult]]
    ) -> tuple[str, str, Usage]:
        if len(results) == 1:
            return results[0][1].output, "", Usage()
        try:
            completion = await self._asked_to_sum_up(system, description, results)
        except LLMError as exc:
            problem = f"(The results as they are: the model could not sum them up: {exc})"
            return f"{listed(results)}\n\n{problem}", "", Usage()
        cut = completion.cut
        text, missing = _without_missing(split_thinking(completion.text, cut=cut).answer.strip())
        if text and cut:
            text, missing = f"{text} …\n\n{CUT}", ""
        return text or listed(results), missing, completion.usage

    async def _asked_to_sum_up(
        self, system: str, description: str, results: Sequence[tuple[SubTask, TaskResult]]
    ) -> Completion:
        """Ask for an answer made of results; where they are too long for the model, with less of each."""
        for most in (MAX_RESULTS_CHARS, MAX_RESULTS_CHARS // 4):
            request = as_data(description, results, most=most)
            with contextlib.suppress(LLMTooLong):
                return await self._llm.complete([Message("system", system), Message("user", request)])
        request = as_data(description, results, most=MAX_RESULTS_CHARS // 16)
        return await self._llm.complete([Message("system", system), Message("user", request)])

    def _read(self, completion: Completion, earlier: EarlierSteps) -> TaskPlan:
        try:
            return read_plan(completion.text, self._skill_names, self._max_steps, earlier)
        except PlanError as exc:
            if not completion.cut:
                raise
            raise PlanError(f"it was cut off at the length limit of an answer, so write a shorter one ({exc})") from exc

    def _fallback(self, description: str, problem: str) -> TaskPlan:
        step = SubTask("step-1", description, self._skill_names[:MAX_SKILLS_PER_TASK])
        note = f"The model's plan could not be used twice ({problem}), so the whole job is one step."
        return TaskPlan(TaskComplexity.MODERATE, False, (step,), note=note)

    @property
    def _skill_names(self) -> tuple[str, ...]:
        return tuple(skill.name for skill in self._skills)


def _without_missing(text: str) -> tuple[str, str]:
    """Return a summary without its last paragraph about what is missing, and what that says."""
    every = list(_MISSING.finditer(text))
    if not every:
        return text, ""
    found = every[-1]
    missing = " ".join(found[1].split()).strip(" *_`.")
    nothing = missing.casefold() in NOTHING or _NOTHING_MISSING.match(missing)
    return (text[: found.start()] + text[found.end() :]).strip(), "" if nothing else missing
