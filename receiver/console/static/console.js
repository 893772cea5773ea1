// The keyboard: / search, j k move, enter open, x select, r replay, g then a letter go to a page, ? help. Every page
// works without it.
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

const boxes = () => Array.from(document.querySelectorAll('tbody input[form="selection"]'));
let lastBox = null;

function selected() {
  const all = boxes(), count = all.filter((box) => box.checked).length;
  const every = document.getElementById("every");
  if (every) {
    every.checked = count > 0 && count === all.length;
    every.indeterminate = count > 0 && count < all.length;
  }
  for (const button of document.querySelectorAll("#selection button")) button.disabled = !count;
  const told = document.querySelector("#selection output");
  if (told) told.value = count ? `${count} selected` : "";
}

function choose(box, checked, range) {
  const all = boxes(), from = range ? all.indexOf(lastBox) : -1, to = all.indexOf(box);
  const taken = from < 0 ? [box] : all.slice(Math.min(from, to), Math.max(from, to) + 1);
  for (const each of taken) each.checked = checked;
  lastBox = box;
  selected();
}

function toggleHere() {
  const box = rows()[here]?.querySelector('input[form="selection"]');
  if (box) choose(box, !box.checked, false);
}

// Of the rows that are selected, else of the one that is marked, else of what the page is about.
function replay() {
  const form = document.getElementById("selection");
  if (form && !boxes().some((box) => box.checked)) toggleHere();
  const button = form ? '#selection [formaction$="/do/replay"]' : 'form[action$="/do/replay"] button';
  document.querySelector(button)?.click();
}

function help() {
  const dialog = document.getElementById("keys");
  if (!dialog) return;
  if (dialog.open) dialog.close();
  else dialog.showModal();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input:not([type=checkbox]), select, textarea")) {
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
    x: toggleHere,
    r: replay,
    g: () => { going = true; setTimeout(() => { going = false; }, 1200); },
    "?": help,
  }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

document.querySelector("[data-once]")?.select();

document.addEventListener("click", (event) => {
  if (event.target.matches('tbody input[form="selection"]')) choose(event.target, event.target.checked, event.shiftKey);
  const row = event.target.closest("tr[data-href]");
  if (row && !event.target.closest("a, button, details, input") && !String(getSelection())) location.assign(row.dataset.href);
});

function offerAll() {
  const head = document.querySelector("th.tick");
  if (!head || document.getElementById("every") || !boxes().length) return;
  const every = Object.assign(document.createElement("input"), { type: "checkbox", id: "every" });
  every.setAttribute("aria-label", "Select all rows");
  every.addEventListener("change", () => {
    for (const box of boxes()) box.checked = every.checked;
    selected();
  });
  head.append(every);
  selected();
}
offerAll();

// What can be copied where the browser lets a page do so; and the keys of the picture that is open.
for (const button of navigator.clipboard ? document.querySelectorAll("[data-copy]") : []) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const { copy, link } = button.dataset;
    await navigator.clipboard.writeText(link === undefined ? copy : new URL(copy, location).href);
    const said = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = said; }, 1500);
  });
}
document.addEventListener("keydown", (event) => {
  document.querySelector(`.lightbox:target [data-step="${CSS.escape(event.key)}"]`)?.click();
});

// Times that grow older while somebody looks, as rendering.py tells them, by the server's clock; and the reader's own
// time beside that of the world.
const ahead = Number(document.body.dataset.now) * 1000 - Date.now();
const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

function duration(seconds) {
  const [unit, size] = UNITS.find(([, size]) => seconds >= 2 * size) ?? UNITS.at(-1);
  return `${size > 1 ? Math.floor(seconds / size) : Math.round(seconds)} ${unit}`;
}

function age() {
  if (document.hidden) return;
  for (const time of document.querySelectorAll("time")) {
    const at = Date.parse(time.dateTime), passed = (Date.now() + ahead - at) / 1000;
    const past = time.className === "until" ? "now" : `${duration(passed)} ago`;
    const text = passed < 0 ? `in ${duration(-passed)}` : past;
    if (time.className && time.textContent !== text) time.textContent = text;
    const here = new Date(at - 60000 * new Date(at).getTimezoneOffset()).toISOString();
    time.title = `${here.slice(0, 19).replace("T", " ")} here, ${time.dateTime}`;
  }
}
age();
setInterval(age, 5000);
document.addEventListener("visibilitychange", age);

// Rows have come or gone: see live.js and search.js.
document.addEventListener("live", () => {
  age();
  offerAll();
  here = rows().findIndex((row) => row.classList.contains("here"));
  selected();
});
