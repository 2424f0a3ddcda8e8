// How far an HR file is, without reloading the page. Without this file, the page has a button that reloads it.
"use strict";
(() => {
  const EVERY = 1500;
  const state = () => document.querySelector("[data-follow]");
  let said = state()?.dataset.follow;
  const ask = async () => {
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" }, cache: "no-store" });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.querySelector("[data-upload-state]");
      if (!answer.ok || !fresh) throw new Error("no state");
      const next = page.querySelector("[data-follow]")?.dataset.follow;
      if (next !== said) { location.reload(); return; }
      // The same step: its numbers change in place, so that focus stays where it is.
      const bar = state().querySelector("progress"), now = page.querySelector("[data-follow] progress");
      if (bar && now) { if (now.hasAttribute("value")) { bar.max = now.max; bar.value = now.value; } }
      const words = state().querySelector("[data-words]"), newer = page.querySelector("[data-follow] [data-words]");
      if (words && newer && words.textContent !== newer.textContent) words.textContent = newer.textContent;
    } catch { /* The next answer says it. */ }
    setTimeout(ask, EVERY);
  };
  if (said) setTimeout(ask, EVERY);
})();
