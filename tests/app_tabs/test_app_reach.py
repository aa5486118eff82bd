"""Accessibility of the page: keyboard, phone, dark theme, screen reader."""

from __future__ import annotations

import pytest

pytest.importorskip("gradio")
pytest.register_assert_rewrite("app_page")

from app_page import button, keep, open_tab, source_after, status_of  # noqa: E402

pytest_plugins = ["app_page"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

TABS = ("Generate", "Steer", "Adapt", "New adaptation", "Edit", "Explore", "Train")
MAX_TABS = 80
JOBS = 3
#: Controls smaller than a fingertip, with their size.
TOO_SMALL = """limit => [...document.querySelectorAll(
  "button, a[href], input[type=range], input[type=number], textarea, [role=tab]")]
  .filter(e => e.checkVisibility({visibilityProperty: true}) && !e.closest("[aria-hidden=true]"))
  .map(e => [e, e.getBoundingClientRect()])
  .filter(([e, b]) => b.width && b.height && b.right > 0 && Math.min(b.width, b.height) < limit)
  .map(([e, b]) => `${e.ariaLabel || e.textContent} ${b.width} x ${b.height}`)"""
#: Texts with too little contrast (WCAG 2.2, 1.4.3), except on disabled controls.
FAINT = """() => {
  const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const part = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const under = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0.99) return c;
      if (getComputedStyle(e).backgroundImage !== "none") return null;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const e of document.querySelectorAll(".gradio-container *")) {
    const said = n => n.nodeType === 3 && /[\\p{L}\\p{N}]/u.test(n.textContent);
    const own = [...e.childNodes].some(said);
    if (!own && !(e.value && e.matches("input[role], input[type=number], textarea"))) continue;
    if (e.matches("style, script, :disabled, :disabled *, option")) continue;
    if (!e.checkVisibility({visibilityProperty: true, opacityProperty: true})) continue;
    if (e.closest("[aria-hidden=true], .visually-hidden")) continue;
    const style = getComputedStyle(e), back = under(e), front = parse(style.color);
    if (!back || !e.getBoundingClientRect().width) continue;
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize), bold = style.fontWeight >= 700;
    const limit = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < limit) found.push(
      `${ratio.toFixed(2)}: ${(e.value || e.textContent).trim().slice(0, 40)}`);
  }
  return [...new Set(found)];
}"""


def tab_to(page, wanted) -> None:
    """Press Tab until `wanted` has a visible focus."""
    wanted.wait_for()
    target = wanted.element_handle()
    for _ in range(MAX_TABS):
        page.keyboard.press("Tab")
        if page.evaluate("e => e === document.activeElement", target):
            break
    else:
        pytest.fail(f"pressing Tab {MAX_TABS} times does not reach {wanted}")
    shows = "e => getComputedStyle(e).outline.endsWith('solid 2px')"  # after a transition
    page.wait_for_function(shows, arg=target, timeout=10_000)


def press(page, name: str, key: str = "Enter") -> None:
    """Press a button with the keyboard."""
    tab_to(page, button(page, name).first)
    page.keyboard.press(key)


def start_and_stop(page, start: str, said: str) -> None:
    """Start a job and stop it. On a busy machine it may end before Stop is reached: try again."""
    again = button(page, start).and_(page.locator(":enabled"))
    for _ in range(JOBS):
        press(page, start)
        page.get_by_text(said).first.wait_for()
        try:
            press(page, "Stop", "Space")
        except pytest.fail.Exception:
            again.wait_for(timeout=60_000)
            continue
        again.wait_for()
        return
    pytest.fail(f"Stop was not reached while {JOBS} jobs ran")


def turn_to(page, name: str) -> None:
    """Open a tab with the keyboard."""
    page.evaluate("document.activeElement.blur()")
    tab_to(page, page.get_by_role("tab", name=name, exact=True).locator("visible=true").first)
    page.keyboard.press("Enter")


def test_every_main_action_by_keyboard(visit):
    page = visit(1280)
    first = source_after(page, "The generated image", None)
    press(page, "Random seed", "Space")
    source_after(page, "The generated image", first)
    for tab, start, said in (("Steer", "Steer", "Choosing"), ("Explore", "Animate", "Frame ")):
        turn_to(page, tab)
        start_and_stop(page, start, said)
    turn_to(page, "Adapt")
    before = source_after(page, "Twelve images with the selected deltas", None)
    tab_to(page, page.get_by_label("range slider for Strength 1").locator("visible=true"))
    page.keyboard.press("ArrowLeft")
    source_after(page, "Twelve images with the selected deltas", before)
    turn_to(page, "New adaptation")
    tab_to(page, button(page, "Adapt").first)
    turn_to(page, "Edit")
    page.get_by_text("a smiling face +2.0").wait_for()
    tab_to(page, page.get_by_label("range slider for Alpha 1").locator("visible=true"))
    page.keyboard.press("ArrowRight")
    page.get_by_text("a smiling face +2.5").wait_for()
    turn_to(page, "Train")
    press(page, "Plan")
    page.get_by_text("data: got").first.wait_for()
    assert status_of(page).is_visible()


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_every_tab_fits_and_can_be_read(visit, width, theme):
    page = visit(width, query=f"?__theme={theme}")
    for name in TABS:
        if name == "New adaptation":
            page.get_by_role("tab", name=name).locator("visible=true").click()
        else:
            open_tab(page, name)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        images = page.locator("img").locator("visible=true")
        assert all(i.get_attribute("alt") is not None for i in images.all()), name
        assert page.evaluate(FAINT) == [], name
        assert page.evaluate(TOO_SMALL, 31.5 if width < 700 else 23.5) == [], name
        keep(page, f"{name.split()[0].lower()}-{width}-{theme}")
