"""Texts of strangers in every field that they can choose: none runs, asks for anything, or becomes a part of a page."""

from typing import Final

import pytest
from playwright.sync_api import Browser

from receiver.console.catalogue import PAGES
from tests.servers.console import ConsoleDeployment
from tests.support.browser_pages import visitor
from tests.support.console import Browser as Client
from tests.support.console import crawl, kind_of

pytestmark = pytest.mark.long

TEXTS: Final = {
    "a": "<script>window.pwned=1</script><img src=x onerror=window.pwned=1><svg onload=window.pwned=1>"
    "<iframe srcdoc='<script>parent.pwned=1</script>'></iframe>",
    "b": "javascript:window.pwned=1//",
    "c": '" autofocus onfocus=window.pwned=1 onmouseover=window.pwned=1 x="',
    "d": "' onfocus='window.pwned=1' autofocus='",
    "e": "</title></textarea></style></script><script>window.pwned=1</script><link rel=stylesheet href=//evil.test/x>",
    "f": "{{ 7 * 7 }}{% include 'base.html' %}${7*7}<%= 7*7 %>--><!--",
    "g": "\u202egnp.exe\u2066 <b>bold</b>&lt;script&gt;",
    "h": "https://evil.test/steal?<img src=https://evil.test/pixel>",
}
# Whatever in a page could run something, but for what the console itself has there.
_ALIVE: Final = """() => {
  const found = [];
  for (const node of document.querySelectorAll("*")) {
    for (const each of node.attributes)
      if (each.name.startsWith("on") || /^\\s*javascript:/i.test(each.value) && !each.name.startsWith("data-")
          && !["value", "title", "alt", "aria-label", "content"].includes(each.name))
        found.push(node.tagName + " " + each.name + "=" + each.value.slice(0, 80));
    if (["IFRAME", "OBJECT", "EMBED", "STYLE", "BASE", "B-"].includes(node.tagName)) found.push(node.tagName);
    if (node.tagName === "SCRIPT" && !node.src.startsWith(location.origin + "/console/static/")) found.push("SCRIPT");
  }
  return found;
}"""


@pytest.mark.parametrize("mark", list(TEXTS))
def test_nothing_of_a_text_runs(mark: str, chromium: Browser, empty_deployment: ConsoleDeployment) -> None:
    # Given a deployment in which a stranger's text stands wherever one can be
    empty_deployment.fill(TEXTS[mark], mark)
    client = Client(empty_deployment.url.removesuffix("/console"))
    client.sign_in()
    paths = {kind_of(path): path for path in reversed(crawl(client))}
    client.session.close()
    assert set(paths) == {each.path for each in PAGES}
    paths["/runs/{run_id:path}"] = f"/console/runs/wr_{mark}512004417"
    with visitor(chromium, empty_deployment.url) as it:
        it.sign_in()
        shown = 0
        for path in paths.values():
            # When each page is shown, and all that can be opened in it is
            it.open(path)
            it.page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
            it.page.keyboard.press("j")
            # Then nothing of it has run, or could
            assert it.page.evaluate("window.pwned") is None, path
            assert it.page.evaluate(_ALIVE) == [], path
            shown += it.page.inner_text("main").count("pwned") + it.page.inner_text("main").count("evil")
            assert it.complaints == [], path
            assert it.asked == [], path
        assert shown or mark in "fg"  # the texts did stand there
