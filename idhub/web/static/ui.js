// Menus, keys, copy, live progress. Every page is complete without this file.
"use strict";
document.documentElement.classList.add("js");

(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

  // ---- menus: one open at a time, closed by Escape and by a press elsewhere
  document.addEventListener("click", (event) => {
    for (const menu of $$("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const menu of $$("details.menu[open]")) {
      menu.open = false;
      $("summary", menu).focus();
    }
  });

  // ---- copy
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button || !navigator.clipboard) return;
    const text = button.dataset.copy === "@location" ? location.href : button.dataset.copy;
    try { await navigator.clipboard.writeText(text); } catch { return; }
    toast(button.dataset.copied || "✓");
  });
  function toast(text) {
    $(".toast")?.remove();
    const element = document.createElement("div");
    element.className = "toast";
    element.setAttribute("role", "status");
    element.textContent = text;
    document.body.append(element);
    let timer = setTimeout(() => element.remove(), 6000);
    element.addEventListener("mouseenter", () => clearTimeout(timer));
    element.addEventListener("mouseleave", () => { timer = setTimeout(() => element.remove(), 2000); });
  }

  // ---- forms: a second press does nothing; the words change, the width stays
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method.toLowerCase() !== "post") return;
    if (form.dataset.sent) { event.preventDefault(); return; }
    form.dataset.sent = "1";
    const button = event.submitter;
    if (button?.dataset.busy) {
      button.style.minWidth = `${button.offsetWidth}px`;
      button.textContent = button.dataset.busy;
      button.setAttribute("aria-busy", "true");
    }
  });
  window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

  // ---- a form that is on its way to an application: nobody need press its button
  document.addEventListener("DOMContentLoaded", () => $("form[data-carry]")?.requestSubmit());

  // ---- applications that were asked in hidden frames: on, when all of them are done
  window.addEventListener("load", () => { const on = $("a[data-go-on]"); if (on) location.replace(on.href); });

  // ---- show a password
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-reveal]");
    if (!button) return;
    const input = document.getElementById(button.dataset.reveal);
    const shown = input.type === "text";
    input.type = shown ? "password" : "text";
    button.setAttribute("aria-pressed", String(!shown));
  });

  // ---- filters: a choice applies at once; without script the button does it
  document.addEventListener("change", (event) => {
    const form = event.target.closest("form[data-auto]");
    if (form && event.target.matches("select, input[type=checkbox]")) form.requestSubmit();
  });

  // ---- keys (never in fields, during composition, or with a modifier)
  let goPressed = 0;
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.target.closest("input, textarea, select, [contenteditable]")) return;
    if (document.documentElement.dataset.keys === "off") return;
    const key = event.key;
    if (goPressed && Date.now() - goPressed < 1500) {
      goPressed = 0;
      const link = $(`[data-go="${CSS.escape(key)}"]`);
      if (link) { event.preventDefault(); link.click(); }
      return;
    }
    if (key === "g") { goPressed = Date.now(); return; }
    if (key === "/") return press(event, () => $("[data-search]")?.focus());
    if (key === "f") return press(event, () => $(".filters select, .filters input")?.focus());
    if (key === "[") return press(event, () => $("a[rel=prev]")?.click());
    if (key === "]") return press(event, () => $("a[rel=next]")?.click());
    if (key === "?") return press(event, () => $("#keys")?.showModal?.());
    if (key === "j" || key === "k") return press(event, () => moveRow(key === "j" ? 1 : -1));
  });
  function press(event, action) { event.preventDefault(); action(); }
  function moveRow(step) {
    const links = $$("tbody [data-row-link]");
    if (!links.length) return;
    const at = links.indexOf(document.activeElement);
    const next = links[Math.max(0, Math.min(links.length - 1, at + step))];
    next.focus();
  }

  // ---- rows that open in place
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-expand]");
    if (!button) return;
    const row = document.getElementById(button.dataset.expand);
    if (!row) return;
    event.preventDefault();
    row.hidden = !row.hidden;
    button.setAttribute("aria-expanded", String(!row.hidden));
  });

  // ---- live progress: rows change in place and never move; the counter alone is announced
  document.addEventListener("DOMContentLoaded", () => $$("[data-live]").forEach(follow));
  function follow(live) {
    const words = live.dataset;
    const toggle = $("[data-live-toggle]");
    let source = null, paused = false, shownAt = words.liveAt || "", announcedAt = 0;
    const say = (text, state) => { live.textContent = text; live.className = `live ${state}`; };
    const open = () => {
      source = new EventSource(words.live);
      source.addEventListener("open", () => say(words.liveOn, "on"));
      source.addEventListener("change", (event) => {
        const change = JSON.parse(event.data);
        shownAt = change.at;
        for (const [id, html] of Object.entries(change.parts)) swap(id, html);
        const counter = $("[data-live-counter]");
        if (counter && Date.now() - announcedAt > 5000) { announcedAt = Date.now(); counter.textContent = change.counter; }
        say(words.liveOn, "on");
      });
      source.addEventListener("end", () => { source.close(); say(words.liveEnd, ""); toggle?.remove(); });
      source.addEventListener("error", () => {
        say(words.liveLost.replace("{at}", shownAt), "lost");
        if (source.readyState === EventSource.CLOSED && !paused) setTimeout(open, 10000);
      });
    };
    const swap = (id, html) => {
      const old = document.getElementById(id);
      if (!old) return;
      const template = document.createElement("template");
      template.innerHTML = html;
      const fresh = template.content.getElementById(id);
      if (fresh && fresh.outerHTML !== old.outerHTML) old.replaceWith(fresh);
    };
    toggle?.addEventListener("click", () => {
      paused = !paused;
      toggle.setAttribute("aria-pressed", String(paused));
      if (paused) { source.close(); say(words.livePaused.replace("{at}", shownAt), ""); } else open();
    });
    open();
  }
})();
