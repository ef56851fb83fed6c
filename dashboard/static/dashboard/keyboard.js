"use strict";
// The command palette and the keys. Letters do nothing while a field has the focus.

(() => {
  const palette = document.getElementById("palette");
  const keys = document.getElementById("keys");
  if (!palette) return;
  const input = palette.querySelector("input");
  const list = palette.querySelector("[role=listbox]");
  const none = palette.querySelector("[data-none]");
  const own = [...list.children];
  let chosen = 0;
  let asked = 0; // the number of the last question, so that a late answer is dropped

  const options = () => [...list.children].filter((each) => !each.hidden);

  function choose(number) {
    const shown = options();
    chosen = shown.length ? (number + shown.length) % shown.length : 0;
    [...list.children].forEach((each) => each.setAttribute("aria-selected", "false"));
    const option = shown[chosen];
    none.hidden = Boolean(option);
    if (!option) return input.removeAttribute("aria-activedescendant");
    option.setAttribute("aria-selected", "true");
    option.scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", option.id);
  }

  function narrow() {
    const words = input.value.trim().toLowerCase().split(/\s+/);
    for (const each of own) {
      const text = each.textContent.toLowerCase();
      each.hidden = !words.every((word) => text.includes(word));
    }
    list.querySelectorAll("[data-found]").forEach((each) => each.remove());
    choose(0);
  }

  async function ask(number) {
    const words = input.value.trim();
    if (words.length < 2) return;
    let answer;
    try {
      const response = await fetch(`${palette.dataset.find}?${new URLSearchParams({ q: words })}`, {
        headers: { Accept: "application/json" },
      });
      answer = await response.json();
    } catch {
      return; // the session has ended, or the server is away: pages and actions are still there
    }
    if (number !== asked) return;
    for (const each of answer.certificates) {
      const option = document.createElement("li");
      option.setAttribute("role", "option");
      option.id = `p-found-${each.id}`;
      option.dataset.found = "";
      option.dataset.href = each.href;
      option.className = "name";
      option.translate = false;
      option.textContent = each.name;
      list.append(option);
    }
    choose(chosen);
  }

  function take(option) {
    if (!option) return;
    palette.close();
    if (option.dataset.click) document.querySelector(option.dataset.click)?.click();
    else location.assign(option.dataset.href);
  }

  function openPalette() {
    input.value = "";
    narrow();
    palette.showModal();
    input.focus();
  }

  let timer = 0;
  input.addEventListener("input", () => {
    narrow();
    asked += 1;
    const number = asked;
    clearTimeout(timer);
    timer = setTimeout(() => ask(number), 200);
  });
  input.addEventListener("keydown", (event) => {
    const moves = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in moves) {
      event.preventDefault();
      choose(chosen + moves[event.key]);
    } else if (event.key === "Enter") {
      event.preventDefault();
      take(options()[chosen]);
    }
  });
  list.addEventListener("click", (event) => take(event.target.closest("[role=option]")));
  for (const dialog of [palette, keys]) {
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  }
  document.querySelector("[data-shows-keys]").addEventListener("click", () => keys.showModal());

  // Rows: of tables and of lists that lead somewhere.
  const rows = () => [...document.querySelectorAll("main tbody tr, main .rows > li, main .names > li")]
    .filter((row) => row.querySelector("a[href]")?.checkVisibility());
  const rowOf = (element) => element?.closest("tbody tr, .rows > li, .names > li");

  function step(by) {
    const all = rows();
    const at = all.indexOf(rowOf(document.activeElement));
    const next = all[at < 0 ? (by > 0 ? 0 : all.length - 1) : at + by];
    next?.querySelector("a[href]").focus();
  }

  const letters = keys.querySelector("[data-letters]");
  letters.checked = localStorage.getItem("letters") !== "off";
  letters.addEventListener("change", () => localStorage.setItem("letters", letters.checked ? "on" : "off"));

  let before = "";
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !letters.checked) return;
    if (event.target.closest("input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable], dialog")) return;
    const pressed = before + event.key;
    before = event.key === "g" ? "g" : "";
    const option = own.find((each) => each.dataset.key === pressed);
    if (option) return location.assign(option.dataset.href);
    if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "x") rowOf(document.activeElement)?.querySelector("input[type=checkbox]")?.click();
    else if (event.key === "?") keys.showModal();
    else if (event.key === "/") openPalette();
    else return;
    event.preventDefault();
  });
})();
