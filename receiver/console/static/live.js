// Every few seconds the page fetches itself and takes over what differs in its part #live, so that focus, scroll, open
// details and ticks stay. Without a script the page is as it was loaded.
"use strict";

(() => {
  const part = document.getElementById("live");
  if (!part) return;
  // Milliseconds between two refreshes; a page that takes long is fetched less often.
  const EVERY = 5000, REST = 10;
  const outdated = document.getElementById("not-live");
  // Of these the scripts of the page, or its reader, have made something else.
  const OWN = "th.tick, output, #selection button, [data-copy], [data-still]";
  let timer = 0;
  let searching = false;
  // Ids of details that the reader has opened. They may leave for one refresh: the overview of a slow ledger is short.
  const opened = new Set();

  const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.dataset?.href || node.id || "" : "");
  const alike = (one, other) => one.nodeName === other.nodeName && keyOf(one) === keyOf(other);

  function attributes(old, fresh) {
    const here = old.classList.contains("here");
    for (const { name } of Array.from(old.attributes)) {
      if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
    }
    for (const { name, value } of Array.from(fresh.attributes)) {
      if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    if (here) old.classList.add("here");
  }

  function morph(old, fresh) {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
    } else if (!old.matches(OWN)) {
      attributes(old, fresh);
      children(old, fresh);
    }
  }

  function children(old, fresh) {
    const wanted = Array.from(fresh.childNodes);
    const keys = new Set(wanted.map(keyOf));
    let place = old.firstChild;
    for (const each of wanted) {
      const isText = each.nodeType === Node.TEXT_NODE;
      while (place && (keyOf(place) ? !keys.has(keyOf(place)) : place.nodeType === Node.TEXT_NODE && !isText)) {
        const gone = place;
        place = place.nextSibling;
        gone.remove();
      }
      if (place && alike(place, each)) {
        morph(place, each);
        place = place.nextSibling;
        continue;
      }
      let moved = keyOf(each) ? place : null;
      while (moved && !alike(moved, each)) moved = moved.nextSibling;
      if (moved) {
        old.insertBefore(moved, place);
        morph(moved, each);
      } else {
        if (each.nodeName === "TR") each.classList.add("new");
        old.insertBefore(each, place);
      }
    }
    while (place) {
      const gone = place;
      place = place.nextSibling;
      gone.remove();
    }
  }

  function show(html) {
    const fresh = new DOMParser().parseFromString(html, "text/html").getElementById("live");
    const focused = document.activeElement;
    for (const { id, open } of part.querySelectorAll("details[id]")) opened[open ? "add" : "delete"](id);
    if (fresh) children(part, fresh);
    for (const each of part.querySelectorAll("details[id]")) each.open ||= opened.has(each.id);
    if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
    document.dispatchEvent(new Event("live"));
  }

  async function refresh() {
    const began = performance.now();
    try {
      const answer = await fetch(location.href, { headers: { "x-runhook-refresh": "1" }, redirect: "error" });
      if (!answer.ok) throw new Error(answer.statusText);
      const html = await answer.text();
      if (searching) return;
      show(html);
      outdated.hidden = true;
    } catch {
      outdated.hidden = false;
    }
    plan(Math.max(EVERY, REST * (performance.now() - began)));
  }

  function plan(wait) {
    clearTimeout(timer);
    if (!document.hidden && !searching) timer = setTimeout(refresh, wait);
  }

  // A page in the background costs nothing, and is right as soon as it is seen. One that search.js has made longer
  // stays as it is.
  document.addEventListener("searching", () => { searching = true; clearTimeout(timer); });
  document.addEventListener("visibilitychange", () => plan(0));
  addEventListener("pageshow", (event) => plan(event.persisted ? 0 : EVERY));
})();
