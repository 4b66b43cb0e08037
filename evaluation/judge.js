"use strict";
(() => {
  const by = (id) => document.getElementById(id);
  const { page, items } = JSON.parse(by("data").textContent);
  const BUTTONS = ["left", "right", "tie"];
  const KEYS = { 1: "left", ArrowLeft: "left", 2: "right", ArrowRight: "right", 0: "tie", ArrowDown: "tie" };
  const PLACE = `semtag-judge-${page}`;

  const choices = new Map(); // item -> {choice, seconds}
  let here = 0;
  let spent = 0; // milliseconds that the text was in view, before `since`
  let since = 0;
  let kept = true; // whether closing the page loses nothing

  // A browser may refuse to keep anything, or give back what somebody else has put there.
  function load() {
    try {
      const { judge, choices: found } = JSON.parse(localStorage.getItem(PLACE));
      by("judge").value = String(judge).slice(0, 80);
      items.forEach(({ item }) => {
        const one = found[item];
        if (one && BUTTONS.includes(one.choice) && Number.isFinite(one.seconds)) choices.set(item, { choice: one.choice, seconds: one.seconds });
      });
    } catch { /* nothing kept, or nothing of use */ }
  }
  function keep() {
    try {
      localStorage.setItem(PLACE, JSON.stringify({ judge: by("judge").value, choices: Object.fromEntries(choices) }));
      kept = true;
    } catch {
      kept = false;
      by("said").textContent = "This browser keeps nothing: save before you close the page.";
    }
  }

  const open = (name) => ["start", "question", "done"].forEach((id) => { by(id).hidden = id !== name; });
  const asking = () => !by("question").hidden;
  const firstOpen = () => items.findIndex(({ item }) => !choices.has(item));
  const count = () => {
    by("bar").value = choices.size;
    by("count").textContent = asking() ? `${here + 1} / ${items.length}` : "";
    by("save").hidden = !asking() || choices.size === 0;
  };

  function start() {
    open("start");
    by("go").textContent = choices.size ? `Go on: ${choices.size} of ${items.length} are judged` : "Begin";
    by("anew").hidden = choices.size === 0;
    by("anew").textContent = "Begin anew";
    count();
    by(by("judge").value ? "go" : "judge").focus();
  }
  function show(index) {
    if (index < 0 || index >= items.length) return finish();
    here = index;
    open("question");
    const { item, text, left, right } = items[here];
    by("text").textContent = text;
    by("text").scrollTop = 0;
    [["left", left], ["right", right]].forEach(([side, tags]) => {
      by(side).querySelector(".tags").replaceChildren(...tags.flatMap((tag) => {
        const chip = document.createElement("span");
        chip.className = "tag";
        chip.dir = "auto";
        chip.textContent = tag;
        return [chip, " "];
      }));
    });
    BUTTONS.forEach((name) => by(name).setAttribute("aria-pressed", String(choices.get(item)?.choice === name)));
    by("back").disabled = here === 0;
    count();
    [spent, since] = [0, performance.now()];
    by("text").focus({ preventScroll: true });
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) by("question").animate([{ opacity: 0.25 }, { opacity: 1 }], 180);
  }
  function finish() {
    open("done");
    count();
    by("thanks").focus();
  }
  function choose(choice) {
    const seconds = (spent + (document.hidden ? 0 : performance.now() - since)) / 1000;
    choices.set(items[here].item, { choice, seconds: Math.round(seconds * 10) / 10 });
    by("said").textContent = "";
    keep();
    show(firstOpen());
  }
  function back() {
    if (!by("done").hidden) show(items.length - 1);
    else if (asking() && here > 0) show(here - 1);
  }
  function save() {
    const judge = by("judge").value.trim();
    const made = items.filter(({ item }) => choices.has(item)).map(({ item }) => ({ item, ...choices.get(item) }));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify({ page, judge, choices: made }, null, 1)], { type: "application/json" }));
    link.download = ["judgement", page, ...(judge.toLowerCase().match(/[a-z0-9]+/g) ?? [])].join("-") + ".json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    kept = true;
    by("said").textContent = `Saved ${made.length} of ${items.length} as ${link.download}`;
  }

  by("begin").addEventListener("submit", (event) => {
    event.preventDefault();
    keep();
    show(firstOpen());
  });
  by("anew").addEventListener("click", () => {
    if (by("anew").textContent === "Begin anew") {
      by("anew").textContent = `Really forget ${choices.size} choice${choices.size === 1 ? "" : "s"}?`;
      return;
    }
    choices.clear();
    by("judge").value = "";
    keep();
    start();
  });
  BUTTONS.forEach((name) => by(name).addEventListener("click", () => choose(name)));
  ["back", "back-in"].forEach((name) => by(name).addEventListener("click", back));
  ["save", "save-all"].forEach((name) => by(name).addEventListener("click", save));
  by("help").addEventListener("click", () => by("keys").showModal());

  addEventListener("keydown", (event) => {
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
    if (event.key === "?") by("keys").open ? by("keys").close() : by("keys").showModal();
    else if (by("keys").open) return;
    else if (asking() && KEYS[event.key]) choose(KEYS[event.key]);
    else if (!by("start").hidden) return;
    else if (event.key === "ArrowUp" || event.key === "Backspace") back();
    else if (event.key.toLowerCase() === "s" && choices.size) save();
    else return;
    event.preventDefault();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) spent += performance.now() - since;
    since = performance.now();
  });
  addEventListener("beforeunload", (event) => { if (!kept) event.preventDefault(); });

  load();
  start();
})();
