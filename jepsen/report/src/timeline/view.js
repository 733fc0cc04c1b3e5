// Draws the page's tables as lanes over time, or over the order that revisions claim.
// Reads the rows' data attributes (see timeline.rs) and writes only below #view. Times are nanoseconds of the run.
"use strict";
(() => {
const rows = id => [...document.querySelectorAll(`#${id} tbody tr`)];
const number = text => text === undefined ? undefined : Number(text);
const cells = (row, ...at) => at.map(n => row.cells[n].textContent);

const keyRanges = text => (text || "").split(",").filter(Boolean).map(span => span.split(":").map(Number));
const ops = rows("ops").map(row => {
  const d = row.dataset, [request, answer] = cells(row, 5, 6);
  return {
    row, id: row.id.slice(3), client: number(d.c), from: number(d.f), to: d.t === undefined ? Infinity : number(d.t),
    outcome: d.o, writes: "w" in d, written: keyRanges(d.w), local: "z" in d, revision: number(d.r), place: number(d.p), suspect: number(d.s),
    keys: keyRanges(d.k), request, answer,
  };
});
if (!ops.length) return;
const spans = id => rows(id).map(row => ({
  row, lane: number(row.dataset.l), from: number(row.dataset.f),
  to: row.dataset.t === undefined ? Infinity : number(row.dataset.t),
}));
const faults = spans("faults"), roles = spans("roles"), commits = spans("commits"), log = spans("log"), watches = spans("watches");
const inOrder = ops.filter(op => op.place !== undefined).sort((a, b) => a.place - b.place);
inOrder.forEach((op, slot) => op.slot = slot);
const suspects = ops.filter(op => op.suspect !== undefined).sort((a, b) => a.suspect - b.suspect);
const first = suspects[0] || ops[ops.length - 1];
const end = Math.max(...ops.map(op => op.to === Infinity ? op.from : op.to)), start = Math.min(...ops.map(op => op.from));

const plot = document.getElementById("plot"), detail = document.getElementById("detail");
const GUTTER = 132, LANE = 20, BAR = 15, CHAR = 6.65;
let byRevision = false, onlyKeys = false, kept = suspects[0] || null, hovered = null, domain, width = 800, queued = false;

const meet = (a, b) => a.some(([from, to]) => b.some(([f, t]) => from < t && f < to));
const touch = (a, b) => meet(a.keys, b.keys);
const atRest = () => kept || first;
const x0 = op => byRevision ? op.slot + 0.06 : op.from;
const x1 = op => byRevision ? op.slot + 0.94 : op.to;
const px = x => GUTTER + (x - domain[0]) / (domain[1] - domain[0]) * (width - GUTTER);
const clamp = x => Math.max(GUTTER - 4, Math.min(width + 4, px(x)));

// What the order of revisions says against the order of real time. Local reads may be old.
function contradictions(op) {
  if (op.revision === undefined || op.local) return [];
  return ops.filter(o => o.revision !== undefined && !o.local
    && (o.to < op.from && o.revision > op.revision || op.to < o.from && o.revision < op.revision))
    .sort((a, b) => Math.abs(a.from - op.from) - Math.abs(b.from - op.from));
}

// What was written to the keys of an operation, and itself, in the claimed order.
const thread = op => inOrder.filter(o => o === op || o.revision !== undefined && meet(o.written, op.keys));

function tag(name, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (text !== undefined) node.textContent = text;
  return node;
}

// Puts overlapping faults into rows of their own, of which there are few: the last row takes the rest.
function stack(bands) {
  const ends = [];
  for (const band of bands.sort((a, b) => a.from - b.from)) {
    let at = ends.findIndex(x => x <= band.from);
    if (at < 0) at = Math.min(ends.length, 4);
    ends[at] = Math.max(ends[at] || 0, band.to);
    band.level = at;
  }
  return ends.length;
}

function step(room, smallest) {
  for (let unit = smallest; ; unit *= 10) for (const n of [1, 2, 5]) if (unit * n >= room) return unit * n;
}

function draw() {
  queued = false;
  width = Math.max(400, plot.clientWidth);
  const out = document.createDocumentFragment(), add = (...args) => out.appendChild(tag(...args));
  const visible = ops.filter(op => !onlyKeys || op === atRest() || touch(op, atRest()));
  const seen = visible.filter(op => x1(op) >= domain[0] && x0(op) <= domain[1]);
  const clients = [...new Set(seen.map(op => op.client))].sort((a, b) => a - b);
  const levels = byRevision ? 0 : stack(faults.filter(it => it.to >= domain[0] && it.from <= domain[1]));
  const members = byRevision ? [] : [...new Set(roles.concat(commits).map(it => it.lane))].sort((a, b) => a - b);
  const inView = it => it.from >= domain[0] && it.from <= domain[1];
  const streams = byRevision || onlyKeys ? [] : [...new Set(watches.filter(inView).map(it => it.lane))].sort((a, b) => a - b);
  const names = new Map(roles.concat(commits).map(it => [it.lane, cells(it.row, 0)[0]]));
  const top = 40, memberTop = top + levels * 15 + 4, watchTop = memberTop + members.length * LANE + (members.length ? 6 : 0);
  const clientTop = watchTop + streams.length * LANE + (streams.length ? 6 : 0);
  const height = clientTop + clients.length * LANE + 8;
  const y = op => clientTop + clients.indexOf(op.client) * LANE;
  plot.setAttribute("height", height);
  plot.setAttribute("preserveAspectRatio", "xMinYMin");
  plot.setAttribute("viewBox", `0 0 ${width} ${height}`);

  ruler(add, height, seen);
  if (!byRevision) for (const band of faults) {
    if (band.to < domain[0] || band.from > domain[1]) continue;
    const a = clamp(band.from), b = clamp(band.to), w = Math.max(2, b - a), what = cells(band.row, 3)[0];
    add("rect", {class: band.lane === undefined ? "fault" : "fault of-one", x: a, y: top, width: w, height: height - top});
    if (members.includes(band.lane)) add("rect", {class: "fault own", x: a, y: memberTop + members.indexOf(band.lane) * LANE, width: w, height: LANE});
    add("rect", {class: "strip", x: a, y: top + band.level * 15, width: w, height: 13}).appendChild(tag("title", {}, what));
    label(add, a, b, top + band.level * 15 + 10, what + (band.lane === undefined ? "" : " " + (names.get(band.lane) || "m" + band.lane)), "");
  }
  for (const role of byRevision ? [] : roles) {
    if (role.to < domain[0] || role.from > domain[1]) continue;
    const a = clamp(role.from), b = clamp(role.to), at = memberTop + members.indexOf(role.lane) * LANE;
    const words = `${cells(role.row, 3)[0]} t${role.row.dataset.term}`;
    const rect = add("rect", {class: "role " + role.row.className, x: a, y: at + 2, width: Math.max(1, b - a), height: BAR});
    rect.appendChild(tag("title", {}, words));
    label(add, a, b, at + 13, words, role.row.className);
  }
  for (const commit of byRevision ? [] : commits.filter(inView)) {
    const x = px(commit.from), at = memberTop + members.indexOf(commit.lane) * LANE;
    add("line", {class: "tick", x1: x, x2: x, y1: at + 13, y2: at + 18}).appendChild(tag("title", {}, "commit " + cells(commit.row, 2)[0]));
  }
  for (const line of byRevision ? [] : log.filter(inView)) {
    const at = members.includes(line.lane) ? memberTop + members.indexOf(line.lane) * LANE + 4 : top - 3;
    add("circle", {class: "line", cx: px(line.from), cy: at, r: 2.6}).appendChild(tag("title", {}, cells(line.row, 2)[0]));
  }
  for (const event of watches.filter(it => inView(it) && streams.includes(it.lane))) {
    const x = px(event.from), at = watchTop + streams.indexOf(event.lane) * LANE;
    const mark = add("path", {class: "watch", d: `M${x} ${at + 4}l4 6l-4 6l-4 -6z`});
    mark.appendChild(tag("title", {}, cells(event.row, 2)[0]));
  }
  const focus = hovered || kept;
  for (const op of seen) {
    const a = clamp(x0(op)), b = Math.max(a + 3, clamp(x1(op))), at = y(op) + 2;
    const kind = op.outcome === "ok" ? op.writes ? "write" : "read" : op.outcome;
    const dim = focus && op !== focus && !touch(op, focus) ? " dim" : "";
    const open = op.to === Infinity && !byRevision;
    const shape = open ? `M${a} ${at}H${b - 5}l5 ${BAR / 2}l-5 ${BAR / 2}H${a}z` : `M${a} ${at}H${b}v${BAR}H${a}z`;
    const bar = add("path", {class: `op ${kind}${op.suspect === undefined ? "" : " suspect"}${op === kept ? " kept" : ""}${dim}`, d: shape});
    bar.op = op;
    bar.appendChild(tag("title", {}, `#${op.id} ${op.request} -> ${op.answer}`));
    label(add, Math.max(a, GUTTER), b, at + 11.5, op.revision === undefined ? op.request : `${op.request} -> ${op.revision}`, kind + dim);
    if (op === first && suspects.length) add("text", {x: (Math.max(a, GUTTER) + b) / 2 - 4, y: at - 1, class: "bad"}, "▼").style.fill = "var(--suspect)";
  }
  if (focus) relations(add, focus, y, clients);
  gutter(add, {height, top, levels, members, memberTop, names, streams, watchTop, clients, clientTop});
  plot.replaceChildren(out);
}

function label(add, a, b, y, words, kind) {
  const room = Math.floor((Math.min(b, width) - Math.max(a, GUTTER) - 6) / CHAR);
  if (room >= 3) add("text", {x: Math.max(a, GUTTER) + 3, y, class: kind}, words.length > room ? words.slice(0, room - 1) + "…" : words);
}

function ruler(add, height, seen) {
  const span = domain[1] - domain[0];
  if (byRevision) {
    let shown = -Infinity, last;
    for (const op of inOrder) {
      const x = px(op.slot);
      if (op.revision === undefined || op.revision === last || x < GUTTER || x > width) continue;
      last = op.revision;
      add("line", {class: "rule", x1: x, x2: x, y1: 20, y2: height});
      if (x > shown) add("text", {x: x + 2, y: 32}, last), shown = x + 8 * CHAR;
    }
  } else {
    const every = step(span * 90 / (width - GUTTER), 1000), unit = every >= 1e8 ? 1 : every >= 1e5 ? 4 : 6;
    for (let at = Math.ceil(domain[0] / every) * every; at <= domain[1]; at += every) {
      add("line", {class: "rule", x1: px(at), x2: px(at), y1: 4, y2: height});
      add("text", {x: px(at) + 2, y: 13, class: "faint"}, (at / 1e9).toFixed(unit) + " s");
    }
    // A revision stands where the answer that made it returned.
    let shown = -Infinity;
    const made = seen.filter(op => op.writes && op.outcome === "ok" && op.revision !== undefined).sort((a, b) => a.to - b.to);
    for (const op of made) {
      const x = px(op.to);
      if (x < GUTTER || x > width) continue;
      add("line", {class: "tick", x1: x, x2: x, y1: 34, y2: 39});
      if (x > shown) add("text", {x: x - 2, y: 31}, op.revision), shown = x + (String(op.revision).length + 1) * CHAR;
    }
  }
  const middle = px((x0(first) + Math.min(x1(first), byRevision ? Infinity : end)) / 2);
  if (suspects.length && middle > GUTTER && middle < width) add("line", {class: "centre", x1: middle, x2: middle, y1: 36, y2: height});
}

function relations(add, focus, y, clients) {
  const drawn = op => clients.includes(op.client) && x1(op) >= domain[0] && x0(op) <= domain[1];
  const middle = op => [(Math.max(GUTTER, clamp(x0(op))) + clamp(x1(op))) / 2, y(op) + 2 + BAR / 2];
  const path = thread(focus).filter(drawn).map(middle);
  if (path.length > 1) add("polyline", {class: "thread", points: path.map(it => it.join()).join(" "), "pointer-events": "none"});
  if (!drawn(focus)) return;
  for (const other of contradictions(focus).filter(drawn).slice(0, 6)) {
    const [a, b] = other.to < focus.from ? [other, focus] : [focus, other];
    add("path", {class: "contradiction", "pointer-events": "none",
      d: `M${clamp(x1(a))} ${y(a) + 2 + BAR / 2}L${clamp(x0(b))} ${y(b) + 2 + BAR / 2}`});
  }
}

function gutter(add, at) {
  add("rect", {class: "gutter", x: 0, y: 0, width: GUTTER - 2, height: at.height});
  const name = (y, words) => add("text", {x: 6, y, class: "faint"}, words.length > 16 ? words.slice(0, 15) + "…" : words);
  if (!byRevision) name(13, "time");
  name(31, "revision");
  if (at.levels) name(at.top + 10, "faults");
  at.members.forEach((lane, n) => name(at.memberTop + n * LANE + 13, at.names.get(lane) || "m" + lane));
  at.streams.forEach((lane, n) => name(at.watchTop + n * LANE + 13, "watch " + cells(watches.find(it => it.lane === lane).row, 0)[0].replace(" at", "")));
  at.clients.forEach((client, n) => name(at.clientTop + n * LANE + 13, "client " + client));
}

function tell() {
  const op = hovered || kept;
  detail.replaceChildren();
  const put = (name, text, kind) => {
    const node = document.createElement(name);
    node.textContent = text;
    node.className = kind || "";
    return detail.appendChild(node);
  };
  if (!op) return put("p", "Point at an operation, or click it.", "faint");
  const [id, client, member, called, took] = cells(op.row, 0, 1, 2, 3, 4);
  put("h3", `#${id} ${client} at ${member}${op.suspect === undefined ? "" : op.suspect ? ", a suspect" : ", the impossible one"}`);
  put("div", op.request, "mono");
  put("div", "-> " + op.answer, "mono" + (op.outcome === "ok" ? "" : " warn"));
  put("div", `called at ${called} s, ${took === "open" ? "never returned" : "took " + took}`, "faint");
  const model = [...op.row.cells[7].children];
  if (model.length) put("h3", "The model, before it");
  for (const line of model) put("div", line.textContent, "mono " + line.className);
  list("Against real time: returned before it was called, yet claims a later revision", contradictions(op).filter(o => o.to < op.from), 8);
  list("Against real time: called after it returned, yet claims an earlier revision", contradictions(op).filter(o => o.from > op.to), 8);
  const line = thread(op), at = line.indexOf(op);
  list("Writes to its keys, before it", line.slice(0, Math.max(0, at)).reverse(), 6);
  list("Writes to its keys, after it", line.slice(at + 1), 4);
  list("Unknown, and may have touched its keys", ops.filter(o => o !== op && o.outcome === "unknown" && o.from < op.to && meet(o.written, op.keys)), 6);
  const near = log.map(it => [Math.abs(it.from - op.from), it]).sort((a, b) => a[0] - b[0]).slice(0, 6).map(it => it[1]);
  if (near.length) put("h3", "Log lines nearest to its call");
  for (const it of near.sort((a, b) => a.from - b.from)) put("div", cells(it.row, 0, 1, 2).join("  "), "mono");

  function list(title, found, most) {
    if (!found.length) return;
    put("h3", title);
    for (const o of found.slice(0, most)) {
      put("button", `#${o.id} c${o.client}: ${o.request} -> ${o.answer}`, "mono").onclick = () => keep(o, true);
    }
    if (found.length > most) put("div", `and ${found.length - most} more`, "faint");
  }
}

function redraw() {
  if (!queued) queued = true, requestAnimationFrame(draw);
}

function keep(op, show) {
  kept = op;
  hovered = null;
  if (op && show && (x0(op) < domain[0] || Math.min(x1(op), byRevision ? Infinity : end) > domain[1])) centre(op, domain[1] - domain[0]);
  tell();
  redraw();
}

function centre(op, span) {
  const middle = (x0(op) + Math.min(x1(op), byRevision ? Infinity : Math.max(end, op.from))) / 2;
  domain = [middle - span / 2, middle + span / 2];
}

// Some operations to each side, whatever they take.
function home(op) {
  const line = byRevision ? inOrder : ops, at = line.indexOf(op), reach = byRevision ? 6 : 14;
  const from = x0(line[Math.max(0, at - reach)]), to = x0(line[Math.min(line.length - 1, at + reach)]);
  const own = byRevision || op.to === Infinity ? 0 : op.to - op.from;
  const middle = x0(op) + own / 2;
  const half = Math.max(middle - from, to - middle, own * 0.7, byRevision ? 6 : 1000) * 1.05;
  domain = [middle - half, middle + half];
}

function zoom(factor, at) {
  const span = domain[1] - domain[0], least = byRevision ? 3 : 1000, most = 2 * Math.max(byRevision ? inOrder.length : end - start, least);
  const next = Math.max(least, Math.min(most, span * factor));
  domain = [at - (at - domain[0]) * next / span, at + (domain[1] - at) * next / span];
  redraw();
}

const middle = () => (domain[0] + domain[1]) / 2;
function pan(share) {
  const by = (domain[1] - domain[0]) * share;
  domain = [domain[0] + by, domain[1] + by];
  redraw();
}

const neighbour = by => {
  const line = byRevision ? inOrder : ops, shown = line.filter(op => !onlyKeys || touch(op, atRest()) || op === atRest());
  const next = shown[shown.indexOf(kept || first) + by];
  if (next) keep(next, true);
};
const verbs = {
  first() { kept = first; home(first); tell(); redraw(); },
  suspect() { if (suspects.length) keep(suspects[(suspects.indexOf(kept) + 1) % suspects.length], true); },
  previous() { neighbour(-1); },
  next() { neighbour(1); },
  in() { zoom(0.6, middle()); },
  out() { zoom(1 / 0.6, middle()); },
  all() { domain = byRevision ? [-1, inOrder.length + 1] : [start - (end - start) * 0.02, end + (end - start) * 0.04 + 1000]; redraw(); },
  axis(button) { byRevision = !byRevision; button.setAttribute("aria-pressed", byRevision); home(atRest()); redraw(); },
  keys(button) { onlyKeys = !onlyKeys; button.setAttribute("aria-pressed", onlyKeys); redraw(); },
};
const buttons = [...document.querySelectorAll("#view [data-do]")];
const run = verb => verbs[verb](buttons.find(button => button.dataset.do === verb));
buttons.forEach(button => button.onclick = () => run(button.dataset.do));
const keyboard = {"0": "first", s: "suspect", p: "previous", n: "next", "+": "in", "=": "in", "-": "out", f: "all", r: "axis", k: "keys"};
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (keyboard[event.key]) run(keyboard[event.key]);
  else if (event.key === "ArrowLeft") pan(-0.2);
  else if (event.key === "ArrowRight") pan(0.2);
  else if (event.key === "Escape") keep(null);
  else return;
  event.preventDefault();
});
const under = event => domain[0] + (event.clientX - plot.getBoundingClientRect().left - GUTTER) / (width - GUTTER) * (domain[1] - domain[0]);
plot.addEventListener("wheel", event => {
  if (event.ctrlKey || event.metaKey) zoom(Math.exp(event.deltaY * 0.004), under(event));
  else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) pan((event.deltaX || event.deltaY) / width);
  else return;
  event.preventDefault();
}, {passive: false});
let drag = null;
plot.addEventListener("pointerdown", event => { drag = {x: event.clientX, domain: [...domain], op: event.target.op, moved: false}; });
window.addEventListener("pointermove", event => {
  if (drag) {
    const by = (event.clientX - drag.x) / (width - GUTTER) * (drag.domain[1] - drag.domain[0]);
    drag.moved ||= Math.abs(event.clientX - drag.x) > 3;
    domain = [drag.domain[0] - by, drag.domain[1] - by];
    if (drag.moved) redraw();
  } else if ((event.target.op || null) !== hovered && plot.contains(event.target)) {
    hovered = event.target.op || null;
    tell();
    redraw();
  }
});
window.addEventListener("pointerup", () => {
  if (drag && !drag.moved && drag.op) keep(drag.op);
  drag = null;
});
window.addEventListener("resize", redraw);

document.getElementById("view").hidden = false;
if (location.hash === "#by-revision") verbs.axis(buttons.find(button => button.dataset.do === "axis"));
home(first);
tell();
draw();
})();
