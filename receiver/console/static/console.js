// The keyboard: / search, j k move, enter open, g then a letter go to a page, ? help. Every page works without it.
"use strict";

const rows = () => Array.from(document.querySelectorAll("tbody tr[data-href]"));
let here = -1;
let going = false;

function move(step) {
  const all = rows();
  if (!all.length) return;
  all[here]?.classList.remove("here");
  here = Math.min(Math.max(here + step, 0), all.length - 1);
  all[here].classList.add("here");
  all[here].querySelector("a")?.focus({ preventScroll: true });
  all[here].scrollIntoView({ block: "nearest" });
}

function help() {
  const dialog = document.getElementById("keys");
  if (!dialog) return;
  if (dialog.open) dialog.close();
  else dialog.showModal();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (going) {
    going = false;
    const link = document.querySelector(`#pages a[data-key="${CSS.escape(event.key)}"]`);
    if (link) location.assign(link.href);
    return;
  }
  const act = {
    "/": () => document.querySelector("[data-search]")?.focus(),
    j: () => move(1),
    k: () => move(-1),
    g: () => { going = true; setTimeout(() => { going = false; }, 1200); },
    "?": help,
  }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

document.querySelector("[data-once]")?.select();

document.addEventListener("click", (event) => {
  const row = event.target.closest("tr[data-href]");
  if (row && !event.target.closest("a, button, summary") && !String(getSelection())) location.assign(row.dataset.href);
});
