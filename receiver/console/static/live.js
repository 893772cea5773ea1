// The part of a page that follows what happens. A new text changes what differs in the page and nothing else, so that
// focus, scroll, open details and ticks stay. Without it, and while it is broken, the page is as it was loaded.
"use strict";

(() => {
  const part = document.getElementById("live");
  if (!part || !window.EventSource) return;
  const broken = document.getElementById("not-live");
  const token = document.querySelector('#pages input[name="form_token"]')?.value ?? "";
  // Of these the scripts of the page, or its reader, have made something else.
  const OWN = "th.tick, output, #selection button, [data-copy], [data-still]";
  let source = null;
  let retry = 0;
  let searching = false;

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
    const fresh = document.createElement("template");
    fresh.innerHTML = html;
    for (const input of fresh.content.querySelectorAll('input[name="form_token"]')) input.setAttribute("value", token);
    const focused = document.activeElement;
    children(part, fresh.content);
    if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
    document.dispatchEvent(new Event("live"));
  }

  function open() {
    close();
    source = new EventSource(`/console/live?page=${encodeURIComponent(location.pathname + location.search)}`);
    source.addEventListener("open", () => { broken.hidden = true; });
    source.addEventListener("part", (event) => show(event.data));
    source.addEventListener("error", () => {
      broken.hidden = false;
      if (source.readyState === EventSource.CLOSED) retry = setTimeout(open, 5000 + Math.random() * 5000);
    });
  }

  function close() {
    clearTimeout(retry);
    source?.close();
    source = null;
  }

  // A page that nobody sees costs nothing, and is right as soon as somebody does. One that search.js has made longer is
  // its own.
  const follow = () => (document.hidden || searching ? close() : open());
  document.addEventListener("searching", () => { searching = true; close(); });
  document.addEventListener("visibilitychange", follow);
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => { if (event.persisted) follow(); });
  follow();
})();
