"use strict";
// The page is whole without this script. What is sorted, sought and turned off is the address'
// fragment, so that a view can be sent as a link.
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const board = document.getElementById("board"), heads = [...board.tHead.rows[0].cells];
const rows = [...board.tBodies]; // of a row and its runs each, in the page's own order
const filter = document.getElementById("filter"), back = document.getElementById("back");
const view = new URLSearchParams(location.hash.slice(1));
document.documentElement.classList.add("live");

function button(text, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.append(...(typeof text === "string" ? [text] : text));
  made.addEventListener("click", act);
  return made;
}

// -- The table ------------------------------------------------------------------------------------

function sorted(column, down) {
  const number = heads[column].dataset.kind === "number";
  const of = row => {
    const told = row.rows[0].cells[column].dataset.value;
    return number ? parseFloat(told) : told;
  };
  const missing = row => of(row) === "" || Number.isNaN(of(row));
  return rows.slice().sort((a, b) => missing(a) - missing(b) || (missing(a) ? 0 : (down ? -1 : 1) *
    (number ? of(a) - of(b) : of(a).localeCompare(of(b), "en", {numeric: true}))));
}

function show() {
  const asked = Number(view.get("sort") ?? -1), column = heads[asked]?.dataset.kind ? asked : -1;
  heads.forEach((head, k) => k === column
    ? head.setAttribute("aria-sort", view.has("down") ? "descending" : "ascending")
    : head.removeAttribute("aria-sort"));
  board.append(...(column < 0 ? rows : sorted(column, view.has("down"))));

  const words = (view.get("filter") ?? "").toLowerCase().split(/\s+/), hidden = view.getAll("hide");
  const sought = row => words.every(word => row.dataset.sought.includes(word));
  const off = new Set(rows.filter(row => !sought(row) || hidden.includes(row.dataset.label))
    .map(row => row.dataset.row));
  all("[data-row]").forEach(one => one.classList.toggle("off", off.has(one.dataset.row)));
  all(".key button").forEach(one =>
    one.setAttribute("aria-pressed", String(!off.has(one.parentElement.dataset.row))));
  charts.forEach(chart => chart.choose());
  filter.value = view.get("filter") ?? "";
  document.getElementById("count").textContent = `${rows.length - off.size} of ${rows.length} rows`;
  const shown = hidden.map(label => button(`show ${label}`, () => toggle(label)));
  back.replaceChildren(...shown, ...(shown.length > 1 ? [button("show all", () => set("hide"))] : []));
}

function set(key, value) {
  value ? view.set(key, value) : view.delete(key);
  history.replaceState(null, "", "#" + view);
  show();
}

function toggle(label) {
  const hidden = view.getAll("hide"), others = hidden.filter(one => one !== label);
  view.delete("hide");
  for (const one of others.length < hidden.length ? others : [...hidden, label]) view.append("hide", one);
  set("filter", view.get("filter"));
}

function sort(column) { // a number from its largest, text from its first; then the other way, then not
  const first = heads[column].dataset.kind === "number";
  const again = view.get("sort") === String(column), last = again && view.has("down") !== first;
  last ? view.delete("sort") : view.set("sort", column);
  set("down", !last && again !== first ? "1" : "");
}

function unfold(row) {
  const shut = (row.rows[1].hidden = !row.rows[1].hidden);
  row.querySelector("details").open = !shut;
  row.querySelector("th button").setAttribute("aria-expanded", String(!shut));
}

heads.forEach((head, k) => head.dataset.kind && head.append(button([...head.childNodes], () => sort(k))));
rows.forEach(row => {
  const [first, runs] = row.rows;
  row.dataset.sought = first.textContent.toLowerCase();
  runs.hidden = true;
  const name = button([...first.cells[0].childNodes], () => {}); // its click is the row's
  name.setAttribute("aria-expanded", "false");
  first.cells[0].append(name);
  first.addEventListener("click", event =>
    event.target.closest(".hide") ? toggle(row.dataset.label) : unfold(row));
});
all(".copy").forEach(one => one.addEventListener("click", () => {
  getSelection().selectAllChildren(one.parentElement.querySelector("code"));
  one.textContent = document.execCommand("copy") ? "copied" : "selected: copy it";
}));
filter.addEventListener("input", () => set("filter", filter.value));

// -- The curves: matplotlib's own lines, bands and ticks, moved ---------------------------------------

class Chart {
  constructor(section, data) {
    Object.assign(this, {section, svg: section.querySelector(".chart > svg"), tip: section.querySelector(".tip")});
    [this.series, this.start, this.column] = [data.series, data.view, data.column];
    const frame = this.svg.querySelector("clipPath rect");
    [this.left, this.top, this.width, this.height] =
      ["x", "y", "width", "height"].map(name => Number(frame.getAttribute(name)));
    for (const one of this.series) {
      [one.line, one.band] = ["line", "band"].map(name => this.svg.querySelector(`[data-part=${name}-${one.place}]`));
      for (const part of [one.line, one.band]) if (part) part.dataset.row = `${data.column}-${one.place}`;
    }
    this.ticks = ["x", "y"].map(name => all(`[data-part=tick-${name}]`, this.svg));
    [this.ring, this.box] = [["circle", "ring"], ["rect", "box"]].map(([tag, name]) => {
      const made = document.createElementNS(this.svg.namespaceURI, tag);
      made.setAttribute("class", `${name} off`);
      return this.svg.appendChild(made);
    });
    this.ring.setAttribute("r", 5);
    this.listen();
    this.move(this.start);
  }

  listen() {
    let from = null; // where a box began
    const spanned = at => ({x: Math.min(at.x, from.x), y: Math.min(at.y, from.y),
      width: Math.abs(at.x - from.x), height: Math.abs(at.y - from.y)});
    this.svg.addEventListener("pointerdown", event => {
      if (event.button || event.pointerType === "touch") return this.point(this.nearest(this.at(event)));
      from = this.at(event);
      this.svg.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    this.svg.addEventListener("pointermove", event => {
      const at = this.at(event);
      this.point(this.nearest(at));
      if (from) Object.entries(spanned(at)).forEach(pair => this.box.setAttribute(...pair));
      this.box.classList.toggle("off", !from);
    });
    this.svg.addEventListener("pointerup", event => {
      const {x, y, width, height} = from ? spanned(this.at(event)) : {};
      from = null;
      this.box.classList.add("off");
      if (!(width > 8 && height > 8)) return;
      const [x0, y0] = this.value(x, y + height), [x1, y1] = this.value(x + width, y);
      this.move([x0, x1, y0, y1]);
    });
    this.svg.addEventListener("pointercancel", () => { from = null; });
    this.svg.addEventListener("pointerleave", () => this.point(null));
    this.svg.addEventListener("dblclick", () => this.move(this.start));
    all("[data-zoom]", this.section).forEach(one => one.addEventListener("click", () => this.zoom(one.dataset.zoom)));
  }

  // Between the figure's units and the data's.
  x(value) { return this.left + this.width * (value - this.view[0]) / (this.view[1] - this.view[0]); }
  y(value) { return this.top + this.height * (this.view[3] - value) / (this.view[3] - this.view[2]); }
  value(x, y) {
    const [x0, x1, y0, y1] = this.view;
    return [x0 + (x1 - x0) * (x - this.left) / this.width, y1 - (y1 - y0) * (y - this.top) / this.height];
  }
  at(event) {
    const found = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.svg.getScreenCTM().inverse());
    return {x: Math.max(this.left, Math.min(this.left + this.width, found.x)),
      y: Math.max(this.top, Math.min(this.top + this.height, found.y))};
  }

  nearest({x, y}) {
    let best = null;
    for (const one of this.series) {
      if (one.line.classList.contains("off")) continue;
      one.x.forEach((value, k) => {
        const [px, py] = [this.x(value), this.y(one.mean[k])], far = Math.hypot(px - x, py - y);
        const inside = px >= this.left - 1 && px <= this.left + this.width + 1
          && py >= this.top - 1 && py <= this.top + this.height + 1;
        if (inside && (!best || far < best.far)) best = {one, k, far, x: px, y: py};
      });
    }
    return best;
  }

  point(found) {
    all(".hot", this.svg).forEach(one => one.classList.remove("hot"));
    this.ring.classList.toggle("off", !found);
    this.tip.hidden = !found;
    if (!found) return;
    const {one, k, x, y} = found, text = value => String(Number(value.toPrecision(5)));
    one.line.classList.add("hot");
    this.ring.setAttribute("cx", x);
    this.ring.setAttribute("cy", y);
    const interval = one.banded ? `\n[${text(one.low[k])}, ${text(one.high[k])}]` : "";
    this.tip.textContent = `${one.label}\nepoch ${text(one.x[k])}: ${text(one.mean[k])}${interval}, n\u00a0=\u00a0${one.n}`;
    const {width, height} = this.svg.viewBox.baseVal;
    this.tip.style.left = `${100 * x / width}%`;
    this.tip.style.top = `${100 * y / height}%`;
    this.tip.classList.toggle("left", x > width / 2);
  }

  zoom(how) {
    if (how === "reset") return this.move(this.start);
    const shown = this.series.filter(one => !one.line.classList.contains("off"));
    if (how === "all" && shown.length) {
      const ends = values => [Math.min(...values), Math.max(...values)];
      return this.move([...ends(shown.flatMap(one => one.x)), ...ends(shown.flatMap(one => [...one.low, ...one.high]))]);
    }
    const by = Number(how), [x0, x1, y0, y1] = this.view;
    const round = (low, high) => [(low + high - by * (high - low)) / 2, (low + high + by * (high - low)) / 2];
    this.move([...round(x0, x1), ...round(y0, y1)]);
  }

  move(view) {
    if (!(view[1] > view[0] && view[3] > view[2])) return;
    this.view = view;
    this.point(null);
    for (const one of this.series) {
      const points = values => one.x.map((x, k) => `${this.x(x).toFixed(1)} ${this.y(values[k]).toFixed(1)}`);
      one.line.querySelector("path").setAttribute("d", `M${points(one.mean).join("L")}`);
      if (!one.band) continue;
      const edge = `M${[...points(one.high), ...points(one.low).reverse()].join("L")}z`;
      one.band.querySelector("path").setAttribute("d", edge);
      one.band.querySelector("use")?.setAttribute("y", 0); // of a short one matplotlib shifts the path
    }
    all(".moved-tick", this.svg).forEach(one => one.remove());
    const moved = view !== this.start;
    this.ticks.flat().forEach(one => one.classList.toggle("off", moved));
    if (moved) this.ticks.forEach((ticks, axis) => ticks.length && this.mark(ticks[0], axis));
  }

  mark(tick, axis) { // copies of matplotlib's first tick, at round values of the view
    const [low, high] = this.view.slice(2 * axis, 2 * axis + 2), rough = (high - low) / 6;
    const power = 10 ** Math.floor(Math.log10(rough)), step = power * [1, 2, 5, 10].find(one => one * power >= rough);
    const from = Number(tick.querySelector("use").getAttribute(axis ? "y" : "x"));
    for (let k = Math.ceil(low / step); k * step <= high; k++) {
      const copy = tick.cloneNode(true), by = (axis ? this.y(k * step) : this.x(k * step)) - from;
      copy.setAttribute("class", "moved-tick");
      copy.setAttribute("transform", axis ? `translate(0 ${by})` : `translate(${by} 0)`);
      copy.querySelector("[clip-path]").removeAttribute("clip-path");
      copy.querySelector("text").textContent = String(Number((k * step).toPrecision(6)));
      tick.before(copy);
    }
  }

  choose() { // none of its rows is sought: it goes too
    const labels = new Set(view.getAll("hide"));
    const left = rows.filter(row => row.dataset.row.startsWith(`${this.column}-`));
    this.section.hidden = left.every(row => row.classList.contains("off") && !labels.has(row.dataset.label));
    this.point(null);
  }
}

const told = document.getElementById("data");
const numbers = told ? JSON.parse(told.textContent) : [];
const charts = numbers.map((data, k) => new Chart(document.querySelector(`[data-chart="${k}"]`), data));
all(".key li").forEach(one =>
  one.append(button([...one.childNodes], () => toggle(one.dataset.label))));
show();
