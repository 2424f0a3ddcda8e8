// Search boxes that offer what the server finds (ARIA combobox with a list). The field works without this file.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  for (const input of document.querySelectorAll("input[data-pick]")) {
    const list = document.createElement("ul");
    list.id = `l-${input.name}`;
    list.className = "pick-list";
    list.hidden = true;
    list.setAttribute("role", "listbox");
    list.setAttribute("aria-label", input.dataset.pickLabel);
    const status = document.createElement("span");
    status.className = "vh";
    status.setAttribute("role", "status");
    const box = document.createElement("span");
    box.className = "pick-box";
    input.before(box);
    box.append(input, list, status);
    for (const [name, value] of [["role", "combobox"], ["aria-autocomplete", "list"], ["aria-expanded", "false"], ["aria-controls", list.id]]) {
      input.setAttribute(name, value);
    }
    let timer = 0, asked = 0, at = -1;
    const close = () => {
      list.hidden = true;
      at = -1;
      input.setAttribute("aria-expanded", "false");
      input.removeAttribute("aria-activedescendant");
    };
    const mark = (next) => {
      const options = [...list.querySelectorAll("[role=option]")];
      if (!options.length) return;
      at = (next + options.length) % options.length;
      options.forEach((option, n) => option.setAttribute("aria-selected", String(n === at)));
      input.setAttribute("aria-activedescendant", options[at].id);
      options[at].scrollIntoView({ block: "nearest" });
    };
    const choose = (option) => {
      input.value = option.dataset.value;
      close();
      input.focus();
    };
    const show = (rows) => {
      list.replaceChildren(...rows.map((row, n) => {
        const option = document.createElement("li");
        option.id = `${list.id}-${n}`;
        option.dataset.value = row.value;
        option.setAttribute("role", "option");
        option.setAttribute("aria-selected", "false");
        const label = document.createElement("b");
        label.textContent = row.label;
        const note = document.createElement("small");
        note.textContent = row.note === row.value ? row.value : `${row.value} · ${row.note}`;
        option.append(label, note);
        return option;
      }));
      at = -1;
      input.removeAttribute("aria-activedescendant");
      list.hidden = !rows.length;
      input.setAttribute("aria-expanded", String(!!rows.length));
      status.textContent = rows.length ? String(rows.length) : input.dataset.pickNone;
    };
    const ask = async () => {
      const mine = ++asked;
      const text = input.value.trim();
      if (!text) return close();
      let rows = [];
      try {
        const answer = await fetch(`${input.dataset.pick}?${new URLSearchParams({ q: text })}`, { headers: { accept: "application/json" } });
        if (!answer.ok || answer.redirected) return;
        ({ rows } = await answer.json());
      } catch { return; }
      if (mine === asked && document.activeElement === input) show(rows);
    };
    input.addEventListener("input", (event) => {
      if (event.isComposing) return;
      clearTimeout(timer);
      timer = setTimeout(ask, 180);
    });
    input.addEventListener("compositionend", () => { clearTimeout(timer); timer = setTimeout(ask, 180); });
    input.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Escape" && !list.hidden) { event.preventDefault(); event.stopPropagation(); close(); return; }
      if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        event.preventDefault();
        if (list.hidden) ask(); else mark(event.key === "ArrowDown" ? at + 1 : at - 1);
      }
      if (event.key === "Enter" && !list.hidden && at >= 0) {
        event.preventDefault();
        choose(list.querySelectorAll("[role=option]")[at]);
      }
    });
    list.addEventListener("mousedown", (event) => {
      const option = event.target.closest("[role=option]");
      event.preventDefault();
      if (option) choose(option);
    });
    input.addEventListener("blur", () => { asked++; close(); });
  }
});
