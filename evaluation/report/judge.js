"use strict";
(() => {
  const by = (id) => document.getElementById(id);
  const { page, items } = JSON.parse(by("data").textContent); // an item is [id, text, left tags, right tags]
  const CHOICES = ["left", "right", "tie"];
  // No key with which one reads on is among them, and the switch turns them off.
  const SHORTCUTS = { 1: "left", 2: "right", 3: "tie", b: "back", s: "save" };
  const PLACE = `semtag-judge-${page}`;

  const choices = new Map(); // item -> choice
  let here = 0;
  let kept = true; // whether closing the page loses nothing

  // A browser may refuse to keep anything, or give back what somebody else has put there.
  function load() {
    try {
      const found = JSON.parse(localStorage.getItem(PLACE));
      by("judge").value = String(found.judge ?? "").slice(0, 80);
      by("shortcuts").checked = found.shortcuts !== false;
      items.forEach(([item]) => { if (CHOICES.includes(found.choices[item])) choices.set(item, found.choices[item]); });
    } catch { /* nothing kept, or nothing of use */ }
  }
  function keep() {
    by("said").textContent = `${choices.size} of ${items.length} texts are judged.`;
    const value = { judge: by("judge").value, shortcuts: by("shortcuts").checked, choices: Object.fromEntries(choices) };
    try {
      localStorage.setItem(PLACE, JSON.stringify(value));
      kept = true;
    } catch {
      kept = false;
      by("said").textContent = "This browser keeps nothing: save before you close the page.";
    }
  }

  function open(name) {
    ["start", "question", "done"].forEach((id) => { by(id).hidden = id !== name; });
    by("bar").value = choices.size;
    by("count").textContent = name === "question" ? `${here + 1} / ${items.length}` : "";
    by("save").hidden = name === "start" || choices.size === 0;
    by("again").hidden = choices.size === 0;
    by("go").textContent = choices.size ? `Resume: ${choices.size} of ${items.length} are judged` : "Begin";
  }
  function show(index) {
    if (index < 0) {
      open("done");
      return by("thanks").focus();
    }
    here = index;
    open("question");
    const [item, text, ...lists] = items[here];
    by("text").textContent = text;
    by("text").scrollTop = 0;
    by("text").ariaLabel = `Text ${here + 1} of ${items.length}`;
    lists.forEach((tags, place) => by(CHOICES[place]).querySelector(".tags").replaceChildren(...tags.flatMap((tag) => {
      const chip = document.createElement("span");
      chip.className = "tag";
      chip.dir = "auto";
      chip.textContent = tag;
      return [chip, " "];
    })));
    CHOICES.forEach((name) => { by(name).ariaPressed = String(choices.get(item) === name); });
    by("back").disabled = here === 0;
    by("text").focus({ preventScroll: true });
  }
  const showFirstOpen = () => show(items.findIndex(([item]) => !choices.has(item)));

  function save() {
    const judge = by("judge").value.trim();
    const made = items.filter(([item]) => choices.has(item)).map(([item]) => ({ item, choice: choices.get(item) }));
    const text = JSON.stringify({ page, judge, saved: new Date().toISOString(), choices: made }, null, 1);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = ["judgement", page, ...(judge.toLowerCase().match(/[a-z0-9]+/g) ?? [])].join("-") + ".json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    kept = true;
    by("said").textContent = `Saved ${made.length} of ${items.length} as ${link.download}`;
  }

  const ACTIONS = {
    again: () => {
      if (!confirm(`Forget the choices on ${choices.size} texts?`)) return;
      choices.clear();
      by("judge").value = "";
      keep();
      open("start");
      by("judge").focus();
    },
    back: () => show(here - 1),
    "back-in": () => show(items.length - 1),
    save,
    "save-all": save,
  };
  CHOICES.forEach((choice) => {
    ACTIONS[choice] = () => {
      choices.set(items[here][0], choice);
      keep();
      showFirstOpen();
    };
  });
  Object.entries(ACTIONS).forEach(([id, act]) => by(id).addEventListener("click", act));
  by("shortcuts").addEventListener("change", keep);
  by("begin").addEventListener("submit", (event) => {
    event.preventDefault();
    keep();
    showFirstOpen();
  });
  addEventListener("keydown", (event) => {
    const button = by(SHORTCUTS[event.key.toLowerCase()]);
    const other = event.repeat || event.ctrlKey || event.metaKey || event.altKey;
    if (button?.checkVisibility() && by("shortcuts").checked && !other) button.click();
  });
  addEventListener("beforeunload", (event) => { if (!kept) event.preventDefault(); });

  load();
  open("start");
  by(by("judge").value ? "go" : "judge").focus();
})();
