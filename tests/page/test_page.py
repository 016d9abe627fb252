"""The control page in a real browser, as a person uses it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from playwright.sync_api import Page, expect
from scenario.wait import until

from .conftest import Gateway, Visit

#: with this set, the pictures of the documentation are taken anew
PICTURES = os.environ.get("KOI_PICTURES")


def picture(page: Page, name: str) -> None:
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"{name}.png")


def sign_in(page: Page, token: str) -> None:
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Connect").click()
    expect(page.locator("#state")).to_have_text("connected")


def size(page: Page) -> str:
    return "phone" if page.viewport_size["width"] < 600 else "desk"


def test_a_wrong_token_is_told_and_the_right_one_opens(visit: Visit, gateway: Gateway) -> None:
    page = visit.page
    page.get_by_label("Token").fill("not the token")
    page.get_by_role("button", name="Connect").click()
    expect(page.get_by_role("alert")).to_contain_text("token mismatch")
    sign_in(page, gateway.token)
    expect(page.get_by_placeholder("Message")).to_be_visible()


def test_the_token_is_not_kept_and_the_browser_stays_signed_in(visit: Visit, gateway: Gateway) -> None:
    page = visit.page
    sign_in(page, gateway.token)
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])")
    assert gateway.token not in kept
    page.reload()
    expect(page.locator("#state")).to_have_text("connected")
    expect(page.get_by_label("Token")).to_be_hidden()


def say(page: Page, words: str) -> None:
    box = page.get_by_placeholder("Message")
    box.fill(words)
    box.press("Enter")


def test_code_is_shown_as_code(visit: Visit, gateway: Gateway) -> None:
    page = visit.page
    sign_in(page, gateway.token)
    answer = page.locator("#log li[data-role=assistant]").last
    for words, expected in (("/new", "new conversation"), ("/model scripted/a", "scripted/a")):
        say(page, words)
        expect(answer).to_contain_text(expected)
    page.reload()
    say(page, "How full is the disk?")
    expect(answer.locator("pre code")).to_contain_text("/dev/nvme1n1")
    expect(answer.locator("strong")).to_have_text("41 %")
    expect(page.locator("#log li.live")).to_have_count(0)
    picture(page, f"chat-{size(page)}")
    say(page, "/model default")
    expect(answer).to_contain_text("default model")


def test_a_chat_streams_and_is_there_after_a_reload(visit: Visit, gateway: Gateway) -> None:
    page = visit.page
    sign_in(page, gateway.token)
    said = f"hello from the {size(page)}: <img src=x onerror=alert(1)> and `code`"
    say(page, said)
    answer = page.locator("#log li[data-role=assistant]").last
    expect(answer).to_contain_text("<img src=x onerror=alert(1)>")
    expect(answer.locator("code").last).to_have_text("code")
    expect(page.locator("#log img")).to_have_count(0)
    expect(page.locator("#log li.live")).to_have_count(0)
    page.reload()
    expect(page.locator("#log li[data-role=user]").last).to_contain_text(f"hello from the {size(page)}")


def test_an_answer_is_shown_while_it_comes_and_can_be_stopped(visit: Visit, gateway: Gateway) -> None:
    page = visit.page
    sign_in(page, gateway.token)
    log = page.locator("#log")
    say(page, "/model scripted/a")
    expect(log.locator("li[data-role=assistant]").last).to_contain_text("scripted/a")
    say(page, "go")
    live = log.locator("li.live")
    expect(live).to_have_text("It begins and goes on")
    page.reload()
    expect(live).to_have_text("It begins and goes on")
    page.get_by_role("button", name="Stop").click()
    expect(live).to_have_count(0)
    expect(log.locator("li[data-role=note]").last).to_have_text("Stopped.")
    expect(log.locator("li[data-role=assistant]").last).to_have_text("It begins and goes on")
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    say(page, "/model default")
    expect(log.locator("li[data-role=assistant]").last).to_contain_text("default model")


def test_the_config_is_changed_and_a_fault_is_named(visit: Visit, gateway: Gateway) -> None:
    page = visit.page
    sign_in(page, gateway.token)
    page.get_by_role("button", name="Config").click()
    area = page.get_by_role("textbox", name="Config")
    expect(area).to_have_value(re.compile("echo/echo"))
    good = area.input_value()
    area.fill(good.replace('"agents"', '"agentz"'))
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert").last).to_contain_text("agentz")
    cap = "7" if size(page) == "phone" else "6"
    wish = json.loads(good) | {"messages": {"queue": {"cap": int(cap)}}}
    area.fill(json.dumps(wish, indent=2))
    page.get_by_role("button", name="Save").click()
    queue = {"queue": {"cap": int(cap)}}
    kept = until("the config is kept", lambda: kept_with(gateway, queue), 10)
    assert kept["gateway"]["auth"]["token"] == gateway.token
    picture(page, f"config-{size(page)}")


def kept_with(gateway: Gateway, messages: dict) -> dict | None:
    kept = json.loads(gateway.config.read_text())
    return kept if kept.get("messages") == messages else None


def test_a_session_is_opened_and_begun_anew(visit: Visit, gateway: Gateway) -> None:
    page = visit.page
    sign_in(page, gateway.token)
    say(page, "remember this")
    expect(page.locator("#log li[data-role=assistant]").last).to_contain_text("remember this")
    page.get_by_role("button", name="Sessions").click()
    line = page.locator("#sessions tr", has_text="main").first
    expect(line).to_be_visible()
    picture(page, f"sessions-{size(page)}")
    line.get_by_role("button", name="Start anew").click()
    page.get_by_role("button", name="Do it").click()
    expect(page.locator("#ask")).to_be_hidden()
    line.get_by_role("button").first.click()
    expect(page.get_by_placeholder("Message")).to_be_visible()
    expect(page.locator("#log li").last).to_have_attribute("data-role", "note")


def test_every_view_shows_what_the_gateway_says(visit: Visit, gateway: Gateway) -> None:
    page = visit.page
    sign_in(page, gateway.token)
    page.get_by_role("button", name="Health").click()
    expect(page.locator("#health dd").first).to_have_text("well")
    picture(page, f"health-{size(page)}")
    page.get_by_role("button", name="Sessions").click()
    expect(page.locator("#sessions table")).to_be_visible()
    page.get_by_role("button", name="Config").click()
    expect(page.get_by_role("textbox", name="Config")).to_be_visible()
    raw = page.locator("#config-text").input_value()
    assert "gateway" in raw and gateway.token not in raw


def test_a_job_is_added_run_and_removed(visit: Visit, gateway: Gateway) -> None:
    page = visit.page
    sign_in(page, gateway.token)
    page.get_by_role("button", name="Schedule").click()
    page.get_by_text("Add a job").click()
    name = f"morning round, {size(page)}"
    page.get_by_label("Name").fill(name)
    page.get_by_label("When").fill("0 9 * * 1-5")
    page.get_by_label("What the agent is to do").fill("Say good morning")
    page.get_by_role("button", name="Add", exact=True).click()
    line = page.locator("#cron tr", has_text=name)
    expect(line).to_contain_text("0 9 * * 1-5 (Europe/Berlin)")
    picture(page, f"schedule-{size(page)}")
    line.get_by_role("button", name="Remove").click()
    page.get_by_role("button", name="Do it").click()
    expect(line).to_have_count(0)


def test_nothing_is_wider_than_the_screen(visit: Visit, gateway: Gateway) -> None:
    page = visit.page
    sign_in(page, gateway.token)
    for view in ("Chat", "Sessions", "Schedule", "Health", "Config"):
        page.get_by_role("button", name=view, exact=True).click()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view


def test_it_says_when_the_connection_is_lost_and_comes_back(visit: Visit, gateway: Gateway) -> None:
    page = visit.page
    sign_in(page, gateway.token)
    gateway.stop()
    expect(page.locator("#state")).to_contain_text("connection lost")
    gateway.start()
    expect(page.locator("#state")).to_have_text("connected", timeout=30_000)
    visit.faults.clear()  # the browser complains of refused connections, which were the point
