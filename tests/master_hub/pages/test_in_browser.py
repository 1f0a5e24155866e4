"""The dashboard in a real Chromium: it updates without a reload, and a hostile job can do nothing there."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.support import scripted_llm as model
from tests.support.fleet import Fleet, fleet, hub, plan, settings_for, step
from tests.support.scripted_llm import ScriptedLLM

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
)
PHONE = (390, 844)
DESKTOP = (1280, 800)
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> " + "A" * 300

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
    pytest.mark.timeout(120),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser,
    url: str,
    *,
    size: tuple[int, int] = DESKTOP,
    scripts: bool = True,
    own_clock: bool = False,
) -> Iterator[Page]:
    """Open a page, and check that it had no error and no violation of its policy.

    Args:
        own_clock: its time passes only as the test says.
    """
    context: BrowserContext = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        java_script_enabled=scripts,
    )
    problems: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    if own_clock:
        page.clock.install()
    page.goto(url)
    yield page
    context.close()
    assert problems == []


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def overflow(page: Page) -> int:
    """Return by how many CSS pixels the page is wider than the window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path) as parts:
        yield parts


def test_a_job_that_finishes_is_shown_without_a_reload(browser: Browser, running: Fleet) -> None:
    job_id = running.submit("hold the door")
    running.gate.wait_for_a_task()
    with opened(browser, running.url + "/dashboard") as page:
        row = page.locator(f'[data-list=jobs] > li[data-id="{job_id}"]')
        expect(row.locator(".pill")).to_have_text("running")
        expect(page.locator("[data-list=active] > li")).to_have_count(1)
        page.evaluate("window.sameLoad = true")

        running.gate.open()

        expect(row.locator(".pill")).to_have_text("completed", timeout=15_000)
        expect(page.get_by_text("Nothing is running.")).to_be_visible()
        expect(page.locator("[data-list=workers] .pill")).to_have_text(["idle", "idle"])
        assert page.evaluate("window.sameLoad") is True


def test_new_jobs_appear_above_the_old_ones(browser: Browser, running: Fleet) -> None:
    running.result(running.submit("first"))
    with opened(browser, running.url + "/dashboard") as page:
        running.result(running.submit("second"))

        expect(page.locator("[data-list=jobs] .title")).to_have_text(["second", "first"], timeout=15_000)


def test_the_first_job_replaces_the_empty_states(browser: Browser, running: Fleet) -> None:
    with opened(browser, running.url + "/dashboard") as page:
        expect(page.get_by_text("No jobs yet.")).to_be_visible()

        running.result(running.submit("first"))

        expect(page.get_by_text("No jobs yet.")).to_be_hidden(timeout=15_000)
        expect(page.locator("[data-list=jobs] > li")).to_have_count(1)


def test_a_jobs_page_follows_its_steps_to_the_answer(browser: Browser, running: Fleet) -> None:
    running.llm.enqueue(plan(step("s1", "look here"), step("s2", "hold on", "s1")), model.text("All is well."))
    job_id = running.ask("POST", "/task", {"description": "look, then hold"}).json()["job_id"]
    running.gate.wait_for_a_task()
    with opened(browser, f"{running.url}/dashboard/jobs/{job_id}") as page:
        pills = page.locator("[data-list=steps] .pill")
        expect(pills).to_have_text(["completed", "running"])

        running.gate.open()

        expect(pills).to_have_text(["completed", "completed"], timeout=15_000)
        expect(page.locator(".answer .text").first).to_have_text("All is well.")
        page.get_by_text("Result").first.click()
        expect(page.get_by_text("did: look here", exact=True)).to_be_visible()


@pytest.mark.parametrize("live", [False, True], ids=["as sent", "as updated"])
def test_a_hostile_description_is_shown_and_not_executed(browser: Browser, running: Fleet, live: bool) -> None:
    if not live:
        running.result(running.submit(f"fail {HOSTILE}"))
    with opened(browser, running.url + "/dashboard") as page:
        if live:
            running.result(running.submit(f"fail {HOSTILE}"))
        title = page.locator("[data-list=jobs] .title")
        expect(title).to_contain_text("<script>", timeout=15_000)
        title.click()
        expect(page.locator("h1")).to_contain_text("<script>")

        assert page.title() != "owned"
        assert page.locator("main script, main img").count() == 0


@pytest.mark.parametrize("size", [PHONE, DESKTOP, (320, 640)], ids=["phone", "desktop", "small phone"])
def test_no_page_is_wider_than_its_window(browser: Browser, running: Fleet, size: tuple[int, int]) -> None:
    running.llm.enqueue(plan(step("s1", "fail " + "B" * 400), step("s2", "hold " + "C" * 400)))
    job_id = running.ask("POST", "/task", {"description": HOSTILE}).json()["job_id"]
    running.gate.wait_for_a_task()
    for path in ("/dashboard", f"/dashboard/jobs/{job_id}"):
        with opened(browser, running.url + path, size=size) as page:
            expect(page.locator("#live")).to_have_text("live")
            assert overflow(page) <= 0


def test_a_job_is_submitted_from_the_form_and_followed(browser: Browser, running: Fleet) -> None:
    with opened(browser, running.url + "/dashboard") as page:
        page.get_by_label("New job").fill("look at the sky")
        page.get_by_text("Choose the skills yourself").click()
        page.get_by_label("web_fetch").check()
        page.get_by_role("button", name="Submit").click()

        page.wait_for_url("**/dashboard/jobs/*")
        expect(page.locator("h1 + .pill, .row > .pill").first).to_have_text("completed", timeout=15_000)
        expect(page.locator("[data-list=steps] .chip")).to_have_text(["web_fetch"])


def test_the_form_works_with_the_keyboard_alone(browser: Browser, running: Fleet) -> None:
    running.llm.enqueue(plan(step("s1", "look")))
    with opened(browser, running.url + "/dashboard") as page:
        for _ in range(10):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == "description":
                break
        page.keyboard.type("look at the sky")
        page.keyboard.press("Control+Enter")

        page.wait_for_url("**/dashboard/jobs/*")


def test_without_javascript_the_form_works_too(browser: Browser, running: Fleet) -> None:
    running.llm.enqueue(plan(step("s1", "look")))
    with opened(browser, running.url + "/dashboard", scripts=False) as page:
        page.get_by_label("New job").fill("look at the sky")
        page.get_by_role("button", name="Submit").click()

        page.wait_for_url("**/dashboard/jobs/*")
        expect(page.locator("h1")).to_have_text("look at the sky")


def test_a_job_is_cancelled_from_its_page(browser: Browser, running: Fleet) -> None:
    job_id = running.submit("hold on")
    running.gate.wait_for_a_task()
    with opened(browser, f"{running.url}/dashboard/jobs/{job_id}") as page:
        page.get_by_role("button", name="Cancel this job").click()

        expect(page.locator(".row > .pill").first).to_have_text("cancelled", timeout=15_000)
        expect(page.get_by_role("button", name="Cancel this job")).to_be_hidden()


def log_in(page: Page, key: str) -> None:
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Log in").click()


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without"])
def test_a_person_with_a_key_logs_in_submits_cancels_and_logs_out(
    browser: Browser, tmp_path: Path, scripts: bool
) -> None:
    with (
        fleet(tmp_path, workers=1, key="key-1") as parts,
        opened(browser, parts.url + "/dashboard", scripts=scripts) as page,
    ):
        page.wait_for_url("**/login?next=/dashboard")
        log_in(page, "key-1")
        page.wait_for_url("**/dashboard")
        page.get_by_label("New job").fill("hold on")
        page.get_by_text("Choose the skills yourself").click()
        page.get_by_label("web_fetch").check()
        page.get_by_role("button", name="Submit").click()
        page.wait_for_url("**/dashboard/jobs/*")
        parts.gate.wait_for_a_task()
        page.get_by_role("button", name="Cancel this job").click()
        if not scripts:
            page.wait_for_load_state()
        expect(page.locator(".row > .pill").first).to_have_text("cancelled", timeout=15_000)

        page.get_by_role("button", name="Log out").click()
        page.wait_for_url("**/login")
        page.goto(parts.url + "/dashboard")
        page.wait_for_url("**/login?next=/dashboard")


def test_a_page_whose_session_ended_elsewhere_leads_to_the_login_and_back(browser: Browser, tmp_path: Path) -> None:
    """Its console has one error: the refused request."""
    with fleet(tmp_path, workers=1, key="key-1") as parts:
        job_id = parts.submit("look")
        context = browser.new_context()
        page, other = context.new_page(), context.new_page()
        page.goto(f"{parts.url}/dashboard/jobs/{job_id}")
        log_in(page, "key-1")
        page.wait_for_url(f"**/dashboard/jobs/{job_id}")
        other.goto(parts.url + "/dashboard")
        other.get_by_role("button", name="Log out").click()
        other.wait_for_url("**/login")

        page.wait_for_url("**/login?next=*", timeout=15_000)
        log_in(page, "key-1")
        page.wait_for_url(f"**/dashboard/jobs/{job_id}")
        context.close()


@pytest.mark.parametrize("size", [PHONE, DESKTOP, (320, 640)], ids=["phone", "desktop", "small phone"])
def test_the_login_fits_its_window_and_says_what_is_wrong(
    browser: Browser, tmp_path: Path, size: tuple[int, int]
) -> None:
    """Its console has one error: the refused form."""
    with fleet(tmp_path, workers=0, key="key-1") as parts:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]})
        page = context.new_page()
        page.goto(parts.url + "/login")
        assert page.evaluate("document.activeElement.id") == "key"
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("This key is not valid for this dashboard.")
        assert overflow(page) <= 0
        if os.environ.get("PIBOT_SHOTS"):
            page.screenshot(path=f"{os.environ['PIBOT_SHOTS']}/login-{size[0]}.png")
        log_in(page, "key-1")
        page.wait_for_url("**/dashboard")
        expect(page.get_by_role("button", name="Log out")).to_be_visible()
        assert overflow(page) <= 0
        if os.environ.get("PIBOT_SHOTS"):
            page.screenshot(path=f"{os.environ['PIBOT_SHOTS']}/home-{size[0]}.png")
        context.close()


def test_a_page_says_when_the_hub_is_gone_and_when_it_is_back(browser: Browser, tmp_path: Path) -> None:
    """The only page whose console has errors: the requests without an answer."""
    with ScriptedLLM() as llm:
        settings = settings_for(tmp_path, llm)
        context = browser.new_context()
        page = context.new_page()
        port = free_port()  # a fixed port, as in real life: old connections must not keep it in use
        with hub(settings, port=port):
            page.goto(f"http://127.0.0.1:{port}/dashboard")
            expect(page.locator("#live")).to_have_text("live")
        expect(page.locator("#lost")).to_contain_text("Connection lost, last seen", timeout=15_000)
        expect(page.locator("#live")).to_have_text("offline")
        with hub(settings, port=port):
            expect(page.locator("#lost")).to_be_hidden(timeout=15_000)
            page.get_by_label("New job").fill("a form from before the restart")
            page.get_by_role("button", name="Submit").click()
            page.wait_for_url("**/dashboard/jobs/*")  # the page got the new hub's token with its data
        context.close()


def set_hidden(page: Page, hidden: bool) -> None:
    """Make the page believe that its tab was hidden, or shown again."""
    page.evaluate(
        """hidden => {
            Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_a_hidden_page_sends_no_requests_and_is_updated_when_it_is_shown_again(
    browser: Browser, running: Fleet
) -> None:
    with opened(browser, running.url + "/dashboard", own_clock=True) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url) if "/data" in request.url else None)
        running.result(running.submit("unseen"))

        set_hidden(page, True)
        page.clock.run_for(60_000)
        asked_while_hidden = list(asked)
        set_hidden(page, False)

        expect(page.locator("[data-list=jobs] .title")).to_have_text(["unseen"], timeout=15_000)
        assert asked_while_hidden == []
        assert len(asked) == 1


def test_times_are_relative_and_absolute_on_hover(browser: Browser, running: Fleet) -> None:
    running.result(running.submit("look"))
    with opened(browser, running.url + "/dashboard") as page:
        time = page.locator("[data-list=jobs] time").first

        expect(time).not_to_contain_text("UTC")
        assert "20" in (time.get_attribute("title") or "")


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_a_waiting_tool_call_appears_by_itself_and_its_buttons_decide_it(
    tmp_path: Path, browser: Browser, size: tuple[int, int]
) -> None:
    with fleet(tmp_path, workers=1) as running, opened(browser, f"{running.url}/dashboard", size=size) as page:
        expect(page.get_by_role("heading", name="Waiting for you")).to_be_hidden()
        job_id = running.submit(f"ask {HOSTILE}")
        card = page.locator("li.approval:visible")
        expect(card).to_have_count(1)
        expect(card.locator("pre")).to_have_text(f"command: {HOSTILE}")
        expect(page.locator(".banners")).to_contain_text("1 tool call waits for your approval")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        card.get_by_role("button", name="Approve").click()
        expect(page).to_have_url(f"{running.url}/dashboard/jobs/{job_id}")
        assert running.result(job_id)["output"] == "approved"
        expect(page.get_by_text("shell_exec approved by owner")).to_be_visible()
        second = running.submit("ask rm -r old")
        page.goto(f"{running.url}/dashboard/jobs/{second}")
        page.get_by_label("Reason for a refusal").fill("not today")
        page.get_by_role("button", name="Refuse").click()
        assert running.result(second)["output"] == "refused: not today"
        expect(page.get_by_text("shell_exec refused by owner: not today")).to_be_visible()
        assert page.title() != "owned"


def test_a_decision_works_without_scripts_too(tmp_path: Path, browser: Browser) -> None:
    with fleet(tmp_path, workers=1) as running:
        job_id = running.submit("ask rm -r old")
        running.waiting_call(job_id)
        with opened(browser, f"{running.url}/dashboard", scripts=False) as page:
            page.get_by_role("button", name="Approve").click()
            assert running.result(job_id)["output"] == "approved"
            assert page.url == f"{running.url}/dashboard/jobs/{job_id}"


def test_a_second_click_does_not_decide_the_next_tool_call_that_moved_under_the_pointer(
    tmp_path: Path, browser: Browser
) -> None:
    with fleet(tmp_path, workers=2) as running:
        running.llm.enqueue(plan(step("s1", "ask rm one"), step("s2", "ask rm two")), model.text("Done."))
        job_id = running.ask("POST", "/task", {"description": "tidy"}).json()["job_id"]
        with opened(browser, f"{running.url}/dashboard/jobs/{job_id}") as page:
            cards = page.locator("li.approval:visible")
            expect(cards).to_have_count(2, timeout=15_000)
            box = cards.first.get_by_role("button", name="Approve").bounding_box()
            assert box is not None
            middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            page.mouse.click(*middle)
            expect(cards).to_have_count(1)
            page.mouse.click(*middle)
            page.wait_for_timeout(1_500)
            assert len(running.ask("GET", "/approvals").json()["approvals"]) == 1
            page.mouse.click(*middle)
            assert running.result(job_id)["output"] == "Done."


def test_all_of_a_long_tool_call_is_above_the_button_that_approves_it(tmp_path: Path, browser: Browser) -> None:
    with fleet(tmp_path, workers=1) as running:
        running.waiting_call(running.submit("ask " + "echo well\n" * 80 + "rm -r old"))
        with opened(browser, f"{running.url}/dashboard", size=PHONE) as page:
            call = page.locator("li.approval:visible pre")
            assert call.evaluate("el => el.scrollHeight - el.clientHeight") <= 0
