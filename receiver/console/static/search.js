// A list that is short though there is more: one page looks at a bounded number of rows, so what is wanted may be far
// from the next. It goes on by itself until the page is full, or somebody stops it. Without it there is the link.
"use strict";

(() => {
  const short = () => document.querySelector(".more[data-short]");
  if (!short()) return;
  const full = Number(new URL(location.href).searchParams.get("limit")) || 50;
  const stopping = new AbortController();
  const stop = Object.assign(document.createElement("button"), { type: "button", textContent: "Stop searching" });
  stop.addEventListener("click", () => stopping.abort());
  const count = () => document.querySelectorAll("tbody tr[data-href]").length;
  const seen = () => new Promise((done) => { document.addEventListener("visibilitychange", done, { once: true }); });

  // The rows of the next page come behind those of this one, and its link in place of this one's.
  function append(fresh) {
    const section = short().parentElement, link = fresh.querySelector(".more");
    const table = section.querySelector("tbody"), further = fresh.querySelector("tbody");
    if (table && further) table.append(...further.children);
    else if (further) section.replaceChildren(...further.closest("section").children);
    const place = section.querySelector(".more");
    if (link && place !== link) place.replaceWith(link);
    else if (!link) place?.remove();
  }

  async function search() {
    document.dispatchEvent(new Event("searching")); // see live.js
    while (short() && count() < full && !stopping.signal.aborted) {
      short().append(" ", stop);
      if (document.hidden) await seen();
      const answer = await fetch(short().querySelector("a").href, { signal: stopping.signal });
      if (!answer.ok || answer.redirected) break; // the link tells why
      append(new DOMParser().parseFromString(await answer.text(), "text/html"));
      document.dispatchEvent(new Event("live")); // see console.js
    }
  }

  search().catch(() => {}).finally(() => stop.remove());
})();
