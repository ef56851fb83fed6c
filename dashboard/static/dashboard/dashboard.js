"use strict";
// Comforts of the pages. Without this file every page works, except that it does not move.

const root = document.documentElement;
const cookiePath = document.querySelector(".brand")?.getAttribute("href") || "/";

// Colours: the cookie is read by the server.
document.querySelectorAll(".theme input").forEach((input) =>
  input.addEventListener("change", () => {
    document.cookie = `theme=${input.value}; path=${cookiePath}; max-age=31536000; samesite=lax`;
    if (input.value === "system") delete root.dataset.theme;
    else root.dataset.theme = input.value;
  }));

// Copy buttons are hidden without this file.
function showCopyButtons(within) {
  within.querySelectorAll("[data-copy]").forEach((button) => { button.hidden = !navigator.clipboard; });
}
showCopyButtons(document);
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent.trim());
});

// A form is sent once, however often its button is pressed.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post" || event.submitter?.hasAttribute("hx-post")) return;
  if (form.hasAttribute("data-downloads")) return;
  if (form.dataset.sent) event.preventDefault();
  form.dataset.sent = "1";
  event.submitter?.setAttribute("aria-busy", "true");
});
addEventListener("pageshow", () =>
  document.querySelectorAll("form[data-sent]").forEach((form) => {
    delete form.dataset.sent;
    form.querySelectorAll("[aria-busy]").forEach((button) => button.removeAttribute("aria-busy"));
  }));

// A page that does not hear from the server says so, and since when.
const lost = document.querySelector("[data-lost]");
function noteLost() {
  if (!lost || !lost.hidden) return;
  const now = new Date().toISOString();
  const since = lost.querySelector("[data-lost-since]");
  since.dateTime = now;
  since.textContent = now.slice(11, 19);
  lost.hidden = false;
}
for (const name of ["htmx:sendError", "htmx:responseError", "htmx:timeout"]) document.addEventListener(name, noteLost);
document.addEventListener("htmx:afterSwap", (event) => {
  if (lost) lost.hidden = true;
  showCopyButtons(event.target.parentElement || document);
});

// Live progress: without a stream, the moving part of the page asks by itself.
let hasStream = false;
document.addEventListener("htmx:sseOpen", () => { hasStream = true; });
for (const name of ["htmx:sseError", "htmx:sseClose"]) document.addEventListener(name, () => { hasStream = false; });
setInterval(() => {
  if (!hasStream) document.querySelector("[hx-trigger*=look]")?.dispatchEvent(new Event("look"));
}, 5000);
