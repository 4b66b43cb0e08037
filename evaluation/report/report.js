"use strict";
(() => {
  const page = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Data reaches the page as text and attributes only.
  const make = (name, text = "", className = "") => {
    const element = document.createElement(name);
    element.textContent = text;
    element.className = className;
    return element;
  };
  const draw = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
    return element;
  };
  const tagList = (tags) => {
    const list = make("ul", "", "tags");
    tags.forEach((tag) => {
      const item = make("li");
      item.append(make("span", tag, "tag"));
      list.append(item);
    });
    return list;
  };

  function theme() {
    const button = document.getElementById("theme");
    const system = matchMedia("(prefers-color-scheme: dark)");
    const isDark = () => (page.dataset.theme ? page.dataset.theme === "dark" : system.matches);
    const say = () => { button.textContent = isDark() ? "Light page" : "Dark page"; };
    // A page on a disk may have no storage.
    const storage = (use) => { try { return use(localStorage); } catch { return null; } };
    const kept = storage((store) => store.getItem("semtag-theme"));
    if (kept === "dark" || kept === "light") page.dataset.theme = kept;
    button.hidden = false;
    button.addEventListener("click", () => {
      page.dataset.theme = isDark() ? "light" : "dark";
      storage((store) => store.setItem("semtag-theme", page.dataset.theme));
      say();
    });
    system.addEventListener("change", say);
    say();
  }

  // The contents show which section is being read.
  function contents() {
    const links = new Map(all(".contents a").map((link) => [link.getAttribute("href").slice(1), link]));
    const nav = document.querySelector(".contents");
    const seen = new Set();
    const watch = new IntersectionObserver((entries) => {
      entries.forEach((entry) => seen[entry.isIntersecting ? "add" : "delete"](entry.target.id));
      const here = [...links.keys()].find((id) => seen.has(id));
      if (!here) return;
      nav.scrollTo({ left: links.get(here).offsetLeft - nav.clientWidth / 3 });
      links.forEach((link, id) => (id === here ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current")));
    }, { rootMargin: "-10% 0px -60% 0px" });
    all("section[id]").forEach((section) => watch.observe(section));
  }

  function printing() {
    let closed = [];
    addEventListener("beforeprint", () => {
      closed = all("details:not([open])");
      closed.forEach((one) => { one.open = true; });
    });
    addEventListener("afterprint", () => closed.forEach((one) => { one.open = false; }));
  }

  // All texts, 40 at a time: a page of thousands opens at once.
  function texts() {
    const data = document.getElementById("rows-data");
    if (!data) return;
    const STEP = 40;
    const rows = JSON.parse(data.textContent).map(([text, base, tuned]) => (
      { text, base, tuned, all: [text, ...base, ...tuned].join("\n").toLowerCase() }));
    const list = document.getElementById("found");
    const search = document.getElementById("find");
    const button = document.getElementById("more");
    let left = [];
    let found = 0;

    const item = ({ text, base, tuned }) => {
      const one = make("li");
      const sides = [["base", base], ["tuned", tuned]].map(([arm, tags]) => {
        const side = tagList(tags);
        side.prepend(make("li", tags.length ? arm : `${arm}: no tags`, arm));
        return side;
      });
      one.append(make("p", text), ...sides);
      return one;
    };
    const more = () => {
      list.append(...left.splice(0, STEP).map(item));
      button.hidden = left.length === 0;
      document.getElementById("found-count").textContent =
        `${list.children.length} shown of ${found} found in ${rows.length} texts`;
    };
    const update = () => {
      const query = search.value.trim().toLowerCase();
      left = rows.filter(({ all: words }) => words.includes(query));
      found = left.length;
      list.replaceChildren();
      more();
    };

    search.addEventListener("input", update);
    button.addEventListener("click", more);
    document.getElementById("all-texts").hidden = false;
    update();
  }

  // Seven hues by four shapes, so that no topic is told by its colour alone.
  const SHAPES = [
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z", "M-4.4-4.4h8.8v8.8h-8.8z", "M0-5.6L5.4 4.2H-5.4z", "M0-6L6 0L0 6L-6 0z",
  ];
  const CROSS = "M-4-5L0-1L4-5L5-4L1 0L5 4L4 5L0 1L-4 5L-5 4L-1 0L-5-4z";
  const shape = (topic) => (topic < 0 ? CROSS : SHAPES[topic % 4]);
  const hue = (topic) => `hue-${topic < 0 ? -1 : topic % 7}`;

  function map() {
    const data = document.getElementById("map-data");
    if (!data) return;
    const { points, topics } = JSON.parse(data.textContent);
    const names = new Map(topics.map((topic) => [topic.id, topic.name]));
    const box = document.getElementById("map");
    const svg = box.querySelector("svg");
    const told = document.getElementById("told");
    const listed = document.getElementById("listed");
    const buttons = all(".topics button");
    const name = (topic) => names.get(topic) ?? (topic < 0 ? "no topic" : `topic ${topic}`);
    let chosen = null;
    let here = -1;

    const marks = points.map((point, index) => {
      const mark = draw("path", { d: shape(point.topic), class: `point ${hue(point.topic)}`, "data-index": index });
      svg.append(mark);
      return mark;
    });
    const ring = draw("circle", { r: 8, class: "ring" });
    ring.setAttribute("visibility", "hidden");
    svg.append(ring);
    buttons.forEach((button) => {
      const swatch = draw("svg", { viewBox: "-7 -7 14 14", class: "swatch", "aria-hidden": "true" });
      swatch.append(draw("path", { d: shape(Number(button.dataset.topic)), class: hue(Number(button.dataset.topic)) }));
      button.prepend(swatch);
      button.disabled = false;
      button.addEventListener("click", () => choose(Number(button.dataset.topic)));
    });

    const places = points.map(() => [0, 0]);
    const translation = (index) => `translate(${places[index].map((at) => at.toFixed(1)).join(" ")})`;
    const lay = () => {
      const width = Math.max(280, Math.min(900, svg.clientWidth || 800));
      const height = Math.round(Math.max(260, width * 0.6));
      const ends = ["x", "y"].map((key) => points.reduce(
        ([low, high], point) => [Math.min(low, point[key]), Math.max(high, point[key])], [Infinity, -Infinity]));
      const scale = (value, [low, high], size) => 18 + (size - 36) * (high > low ? (value - low) / (high - low) : 0.5);
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      points.forEach((point, index) => {
        places[index] = [scale(point.x, ends[0], width), height - scale(point.y, ends[1], height)];
        marks[index].setAttribute("transform", translation(index));
      });
      if (here >= 0) ring.setAttribute("transform", translation(here));
    };
    const show = (index) => {
      if (here === index) return;
      here = index;
      ring.setAttribute("transform", translation(here));
      ring.setAttribute("visibility", "visible");
      const point = points[here];
      told.replaceChildren(make("p", name(point.topic), "listed-title"), make("p", point.text), tagList(point.tags));
      if (point.label !== null) told.append(make("p", `label: ${point.label}`, "soft"));
    };
    const choose = (topic) => {
      chosen = chosen === topic ? null : topic;
      marks.forEach((mark, index) => mark.classList.toggle("dim", chosen !== null && points[index].topic !== chosen));
      buttons.forEach((button) => button.setAttribute("aria-pressed", String(Number(button.dataset.topic) === chosen)));
      const own = chosen === null ? [] : points.filter((point) => point.topic === chosen);
      listed.replaceChildren(...own.slice(0, 60).map((point) => {
        const item = make("li");
        item.append(make("p", point.text), tagList(point.tags));
        return item;
      }));
      if (own.length > 60) listed.append(make("li", `and ${own.length - 60} more`, "soft"));
      const title = chosen === null ? "" : `${own.length} texts of ${name(chosen)}`;
      document.getElementById("listed-title").textContent = title;
    };
    // The nearest text in the direction of the arrow, of the chosen topic if there is one.
    const step = ([dx, dy]) => {
      const free = points.map((_, index) => index).filter((index) => chosen === null || points[index].topic === chosen);
      if (here < 0 || !free.includes(here)) return free.length && show(free[0]);
      const distance = (index) => {
        const [x, y] = [places[index][0] - places[here][0], places[index][1] - places[here][1]];
        const [along, aside] = [x * dx + y * dy, Math.abs(x * dy) + Math.abs(y * dx)];
        return along > 0 ? along + 2 * aside : Infinity;
      };
      const next = free.reduce((best, index) => (distance(index) < distance(best) ? index : best), here);
      return next !== here && show(next);
    };

    const at = (event) => Number(event.target.dataset.index ?? -1);
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    svg.addEventListener("pointerover", (event) => at(event) >= 0 && show(at(event)));
    svg.addEventListener("click", (event) => {
      if (at(event) >= 0) {
        show(at(event));
        choose(points[at(event)].topic);
      } else if (chosen !== null) choose(chosen);
    });
    svg.addEventListener("focus", () => here < 0 && points.length && show(0));
    svg.addEventListener("keydown", (event) => {
      if (arrows[event.key]) step(arrows[event.key]);
      else if ((event.key === "Enter" || event.key === " ") && here >= 0) choose(points[here].topic);
      else if (event.key === "Escape" && chosen !== null) choose(chosen);
      else return;
      event.preventDefault();
    });
    box.hidden = false;
    new ResizeObserver(lay).observe(box);
    lay();
  }

  theme();
  contents();
  printing();
  texts();
  map();
})();
