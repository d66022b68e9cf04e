"use strict";
// Accuracy against a cost of one's choice, drawn from the JSON beside this script. All text goes in
// as text nodes and attributes: a name from outside is a name, whatever stands in it.
(() => {
  const data = JSON.parse(document.getElementById("chart-data").textContent);
  const host = document.getElementById("chart");
  const SVG = "http://www.w3.org/2000/svg";
  const WIDE = 620; // px; below, the plot is narrow and its names are few
  const state = { x: data.axes[0].key, y: "top1", log: true, hidden: new Set(), open: null,
    pinned: false };

  // ---- small tools

  function make(tag, attributes = {}, ...children) {
    return fill(document.createElement(tag), attributes, children);
  }

  function draw(tag, attributes = {}, ...children) {
    return fill(document.createElementNS(SVG, tag), attributes, children);
  }

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function inRole(element, role) {
    const style = data.roles[role];
    element.classList.add("role");
    element.style.setProperty("--light", style.light);
    element.style.setProperty("--dark", style.dark);
    return element;
  }

  const MARKS = { // around the origin, about 11 px across
    s: "M-5,-5H5V5H-5Z", D: "M0,-6.6L6.6,0L0,6.6L-6.6,0Z",
    o: "M-5.6,0A5.6,5.6 0 1 1 5.6,0A5.6,5.6 0 1 1 -5.6,0Z",
    v: "M0,6L-6,-4.8H6Z", "^": "M0,-6L6,4.8H-6Z",
    P: "M-2,-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
    X: "M-5.6,-3L-3,-5.6L0,-2.6L3,-5.6L5.6,-3L2.6,0L5.6,3L3,5.6L0,2.6L-3,5.6L-5.6,3L-2.6,0Z",
    h: "M0,-6.4L5.5,-3.2V3.2L0,6.4L-5.5,3.2V-3.2Z",
  };

  function mark(role) {
    return draw("path", { class: "mark", d: MARKS[data.roles[role].marker] });
  }

  // ---- what is shown

  function axis() {
    return data.axes.find((one) => one.key === state.x);
  }

  function shownPoints() {
    const lessIsBetter = axis().less_is_better;
    const shown = data.points
      .filter((p) => !state.hidden.has(p.role) && state.x in p.values && p[state.y])
      .map((p) => {
        const [y, low, high] = p[state.y];
        return { source: p, cost: p.values[state.x].value, y, low, high };
      });
    const cost = (p) => (lessIsBetter ? p.cost : -p.cost);
    const beats = (q, p) => cost(q) <= cost(p) && q.y >= p.y && (cost(q) < cost(p) || q.y > p.y);
    for (const p of shown) p.best = !shown.some((q) => beats(q, p));
    return shown;
  }

  // ---- scales

  function xScale(shown, left, right) {
    const costs = shown.map((p) => p.cost);
    const least = Math.min(...costs), most = Math.max(...costs);
    if (state.log) {
      const room = Math.max((most / least) ** 0.12, 1.5, Math.sqrt((10 * least) / most));
      const low = Math.log10(least / room), high = Math.log10(most * room);
      const to = (v) => left + ((Math.log10(v) - low) / (high - low)) * (right - left);
      return { to, ticks: logTicks(10 ** low, 10 ** high) };
    }
    const to = (v) => left + (v / (most * 1.12)) * (right - left);
    return { to, ticks: evenTicks(0, most * 1.12, 6) };
  }

  function logTicks(low, high) {
    const decades = Math.log10(high / low);
    const steps = decades < 2 ? [1, 2, 5] : decades < 4 ? [1, 3] : [1];
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
      for (const step of steps) ticks.push(Number(`${step}e${power}`));
    }
    return ticks.filter((tick) => low <= tick && tick <= high);
  }

  function evenTicks(low, high, about) {
    const raw = (high - low) / about;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].find((n) => n * power >= raw) * power;
    const ticks = [];
    for (let n = Math.ceil(low / step); n * step <= high; n += 1) {
      ticks.push(Number((n * step).toPrecision(12)));
    }
    return ticks;
  }

  function yScale(shown, top, bottom) {
    const ends = shown.flatMap((p) => [p.low, p.high]);
    if (chanceShown()) ends.push(data.chance_pct);
    const least = Math.min(...ends), most = Math.max(...ends);
    const margin = Math.max(2, 0.08 * (most - least));
    const low = Math.max(least - margin, -3), high = Math.min(most + margin, 103);
    const to = (v) => bottom - ((v - low) / (high - low)) * (bottom - top);
    return { to, ticks: evenTicks(Math.max(low, 0), Math.min(high, 100), 8) };
  }

  function chanceShown() {
    return data.chance_pct !== null && state.y === "top1";
  }

  // ---- the plot

  function redraw() {
    const width = Math.max(Math.round(host.clientWidth), 280);
    const height = Math.round(Math.min(Math.max(width * 0.56, 330), 540));
    const below = axis().detail ? 66 : 46;
    const box = { left: 56, right: width - 12, top: 14, bottom: height - below };
    const shown = shownPoints();
    const plot = draw("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, role: "group",
      "aria-label": `${yName()} against ${axis().title}; ${shown.length} networks` });
    host.querySelector(".plot").replaceWith(plot);
    hideTip();
    tellMissing(shown.length);
    if (!shown.length) {
      plot.append(draw("text", { x: width / 2, y: height / 2, "text-anchor": "middle" },
        "Nothing to show: choose another axis or switch a role on."));
      return;
    }
    const x = xScale(shown, box.left, box.right), y = yScale(shown, box.top, box.bottom);
    for (const p of shown) Object.assign(p, { px: x.to(p.cost), py: y.to(p.y) });
    drawAxes(plot, box, x, y);
    const front = drawFront(plot, shown, box);
    const ordered = [...shown].sort((p, q) => p.px - q.px); // the order of the Tab key
    for (const p of ordered) plot.append(drawPoint(p, y));
    drawNames(plot, shown, { y, box, front, isNarrow: width < WIDE });
  }

  function drawAxes(plot, box, x, y) {
    for (const tick of y.ticks) {
      const py = y.to(tick);
      plot.append(draw("line", { class: "grid", x1: box.left, x2: box.right, y1: py, y2: py }));
      plot.append(draw("text", { class: "tick", x: box.left - 8, y: py + 4,
        "text-anchor": "end" }, String(tick)));
    }
    for (const tick of x.ticks) {
      const px = x.to(tick);
      plot.append(draw("line", { class: "grid", x1: px, x2: px, y1: box.top, y2: box.bottom }));
      plot.append(draw("text", { class: "tick", x: px, y: box.bottom + 18,
        "text-anchor": "middle" }, String(tick)));
    }
    plot.append(draw("line", { class: "base", x1: box.left, x2: box.right, y1: box.bottom,
      y2: box.bottom }));
    const middle = (box.left + box.right) / 2;
    plot.append(draw("text", { class: "title", x: middle, y: box.bottom + 40,
      "text-anchor": "middle" }, axis().title + (state.log ? " (log scale)" : "")));
    const detail = draw("text", { class: "tick", x: middle, y: box.bottom + 59,
      "text-anchor": "middle" }, axis().detail);
    plot.append(detail);
    if (detail.getComputedTextLength() > box.right) detail.setAttribute("textLength", box.right);
    const at = `translate(13 ${(box.top + box.bottom) / 2}) rotate(-90)`;
    plot.append(draw("text", { class: "title", transform: at, "text-anchor": "middle" },
      `${yName()}, %`));
    if (!chanceShown()) return;
    const py = y.to(data.chance_pct);
    plot.append(draw("line", { class: "chance", x1: box.left, x2: box.right, y1: py, y2: py }));
    plot.append(draw("text", { class: "tick", x: box.right - 2, y: py - 5, "text-anchor": "end" },
      `chance ${data.chance_pct.toFixed(1)} %`));
  }

  function yName() {
    return state.y === "top1" ? "Top-1 accuracy" : "Top-5 accuracy";
  }

  // The most accuracy that each cost buys: it rises where a network stands, not before.
  function drawFront(plot, shown, box) {
    const lessIsBetter = axis().less_is_better;
    const front = shown.filter((p) => p.best)
      .sort((p, q) => (lessIsBetter ? p.px - q.px : q.px - p.px) || p.y - q.y);
    const corners = [];
    for (const p of front) {
      if (corners.length) corners.push([p.px, corners.at(-1)[1]]);
      corners.push([p.px, p.py]);
    }
    corners.push([lessIsBetter ? box.right : box.left, corners.at(-1)[1]]);
    plot.append(draw("polyline", { class: "front", points: corners.join(" ") }));
    return corners;
  }

  function drawPoint(p, y) {
    const px = p.px, group = inRole(draw("g", { class: "point", tabindex: 0, role: "img",
      "aria-label": spoken(p) }), p.source.role);
    group.classList.toggle("best", p.best);
    if (p.high > p.low) {
      const top = y.to(p.high), bottom = y.to(p.low);
      const d = `M${px},${top}V${bottom}M${px - 4},${top}h8M${px - 4},${bottom}h8`;
      group.append(draw("path", { class: "whisker", d }));
    }
    const at = { transform: `translate(${px} ${p.py})` };
    group.append(draw("g", at, draw("circle", { class: "halo", r: 12 }), mark(p.source.role),
      draw("circle", { class: "hit", r: 15 })));
    group.addEventListener("pointerenter", () => state.pinned || showTip(p, group));
    group.addEventListener("pointerleave", () => state.pinned || hideTip());
    group.addEventListener("focus", () => { state.pinned = false; showTip(p, group); });
    group.addEventListener("blur", () => state.pinned || hideTip());
    group.addEventListener("click", () => { showTip(p, group); state.pinned = true; });
    group.addEventListener("keydown", (event) => step(event, group));
    return group;
  }

  function spoken(p) {
    const words = [p.source.name, ...p.source.facts.map((fact) => fact.join(": "))];
    words.push(`${axis().title} ${axis().detail}: ${p.source.values[state.x].text}`);
    if (p.best) words.push("on the Pareto front");
    return words.join("; ");
  }

  // Arrow keys go from point to point, from left to right.
  function step(event, group) {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const all = [...host.querySelectorAll(".point")];
    all[(all.indexOf(group) + by + all.length) % all.length].focus();
  }

  // ---- names beside the points

  function drawNames(plot, shown, { y, box, front, isNarrow }) {
    const taken = [];
    const blocks = shown.flatMap((p) => [
      { left: p.px - 9, right: p.px + 9, top: p.py - 9, bottom: p.py + 9 },
      { left: p.px - 5, right: p.px + 5, top: y.to(p.high), bottom: y.to(p.low) },
    ]);
    for (let i = 1; i < front.length; i += 1) blocks.push(thick(front[i - 1], front[i]));
    // Those on the front come first: where there is no room, others go without a name.
    for (const p of [...shown].sort((a, b) => b.best - a.best)) {
      const text = draw("text", { class: "name" }, p.source.name);
      plot.append(text);
      const { width, height } = text.getBBox();
      const place = bestPlace(p, width, height, { taken, blocks, box });
      if (!place || (isNarrow && place.cost > 1)) {
        text.remove();
        continue;
      }
      text.setAttribute("x", place.left);
      text.setAttribute("y", place.top + height * 0.78);
      taken.push(place);
      const nearX = Math.min(Math.max(p.px, place.left), place.right);
      const nearY = Math.min(Math.max(p.py, place.top), place.bottom);
      if (Math.hypot(nearX - p.px, nearY - p.py) > 26) {
        plot.append(draw("line", { class: "lead", x1: p.px, y1: p.py, x2: nearX, y2: nearY }));
      }
    }
  }

  function thick([ax, ay], [bx, by]) {
    return { left: Math.min(ax, bx) - 2, right: Math.max(ax, bx) + 2, top: Math.min(ay, by) - 2,
      bottom: Math.max(ay, by) + 2 };
  }

  function bestPlace(p, width, height, { taken, blocks, box }) {
    let best = null;
    for (const distance of [12, 20, 32, 48, 68]) {
      for (let turn = 0; turn < 16; turn += 1) {
        const angle = (Math.PI * (turn % 2 ? turn + 1 : -turn)) / 16;
        const cx = p.px + Math.cos(angle) * (distance + width / 2);
        const cy = p.py + Math.sin(angle) * (distance + height / 2);
        const place = { left: cx - width / 2, right: cx + width / 2, top: cy - height / 2,
          bottom: cy + height / 2 };
        const inside = place.left >= box.left && place.right <= box.right &&
          place.top >= box.top && place.bottom <= box.bottom;
        if (!inside || taken.some((other) => covered(place, other) > 0)) continue;
        place.cost = distance / 30;
        for (const block of blocks) place.cost += 4 * Math.sqrt(covered(place, block));
        if (!best || place.cost < best.cost) best = place;
      }
    }
    return best;
  }

  // The part of a that b covers.
  function covered(a, b) {
    const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (width <= 0 || height <= 0) return 0;
    return (width * height) / ((a.right - a.left) * (a.bottom - a.top));
  }

  // ---- the tooltip

  const tip = make("div", { class: "tip", id: "tip", role: "tooltip", hidden: "" });

  function showTip(p, group) {
    hideTip();
    state.open = group;
    group.classList.add("open");
    group.setAttribute("aria-describedby", "tip");
    const list = make("dl");
    const rows = [...p.source.facts];
    const own = p.source.values[state.x];
    if (axis().detail) rows.push([axis().group, `${own.text} on ${axis().detail}`]);
    rows.push(["Pareto front", p.best ? "on it: nothing shown is cheaper and as good" :
      "behind it"]);
    for (const [name, value] of rows) list.append(make("dt", {}, name), make("dd", {}, value));
    if (p.source.protocol) {
      list.append(make("dt", {}, "Protocol"), make("dd", {}, p.source.protocol));
    }
    const command = own.command || p.source.command;
    if (command) {
      list.append(make("dt", {}, "Command"), make("dd", { class: "code" }, command));
    }
    const role = make("small", {}, ` ${data.roles[p.source.role].name}`);
    tip.replaceChildren(make("h3", {}, p.source.model, role), list);
    tip.hidden = false;
    place(group);
  }

  function place(group) {
    const frame = host.getBoundingClientRect();
    const spot = group.querySelector(".mark").getBoundingClientRect();
    const cx = spot.left + spot.width / 2 - frame.left;
    const cy = spot.top + spot.height / 2 - frame.top;
    const width = tip.offsetWidth, height = tip.offsetHeight;
    let left = cx + 20;
    let top = cy - height / 2;
    if (left + width > frame.width) left = cx - 20 - width;
    if (left < 0) { // no room on either side: below the point, or above it
      left = Math.min(Math.max(cx - width / 2, 0), Math.max(frame.width - width, 0));
      const below = frame.top + cy + 20 + height <= window.innerHeight;
      top = below || frame.top + cy - 20 - height < 0 ? cy + 20 : cy - 20 - height;
    } else {
      const least = Math.min(8 - frame.top, cy - 30);
      const most = Math.max(window.innerHeight - 8 - frame.top - height, cy + 30 - height);
      top = Math.min(Math.max(top, least), most);
    }
    tip.style.left = `${Math.round(left)}px`;
    tip.style.top = `${Math.round(top)}px`;
  }

  function hideTip() {
    if (state.open) {
      state.open.classList.remove("open");
      state.open.removeAttribute("aria-describedby");
    }
    state.open = null;
    state.pinned = false;
    tip.hidden = true;
  }

  // ---- controls

  function chooser(label, id, options, onChange) {
    const select = make("select", { id });
    const groups = new Map();
    for (const { value, text, group } of options) {
      const option = make("option", { value }, text);
      if (!group) {
        select.append(option);
        continue;
      }
      if (!groups.has(group)) {
        groups.set(group, make("optgroup", { label: group }));
        select.append(groups.get(group));
      }
      groups.get(group).append(option);
    }
    select.addEventListener("change", () => { onChange(select.value); redraw(); });
    return make("label", {}, label, select);
  }

  function controls() {
    const row = make("div", { class: "controls" });
    row.append(chooser("Cost", "axis-x", data.axes.map((one) => (
      { value: one.key, text: one.label, group: one.group })), (v) => { state.x = v; }));
    row.append(chooser("Scale", "scale", [{ value: "log", text: "logarithmic" },
      { value: "linear", text: "linear" }], (v) => { state.log = v === "log"; }));
    if (data.points.some((p) => p.top5)) {
      row.append(chooser("Accuracy", "axis-y", [{ value: "top1", text: "top-1" },
        { value: "top5", text: "top-5" }], (v) => { state.y = v; }));
    }
    return row;
  }

  function legend() {
    const row = make("div", { class: "legend", role: "group", "aria-label": "Roles shown" });
    for (const [role, style] of Object.entries(data.roles)) {
      const sample = inRole(draw("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true",
        class: "best" }, mark(role)), role);
      const button = make("button", { type: "button", "aria-pressed": "true" }, sample, style.name);
      button.addEventListener("click", () => {
        const hide = !state.hidden.delete(role);
        if (hide) state.hidden.add(role);
        button.setAttribute("aria-pressed", String(!hide));
        redraw();
      });
      row.append(button);
    }
    row.append(make("span", {}, draw("svg", { class: "wide", viewBox: "0 0 26 16",
      "aria-hidden": "true" }, draw("path", { class: "front", d: "M0,8H26" })),
      "Pareto front (filled)"));
    return row;
  }

  function tellMissing(numShown) {
    const roles = data.points.filter((p) => !state.hidden.has(p.role)).length;
    const left = roles - numShown;
    host.querySelector(".below").textContent = left === 0 ? "Whiskers: 95 % intervals." :
      `Whiskers: 95 % intervals. Not measured on this axis: ${left} of ${roles} networks.`;
  }

  host.append(controls(), legend(), draw("svg", { class: "plot" }), make("p", { class: "below" }),
    tip);
  document.documentElement.classList.add("live"); // before the first drawing: hidden has no width
  try {
    redraw();
  } catch (error) {
    document.documentElement.classList.remove("live"); // the picture is there
    throw error;
  }
  let width = host.clientWidth;
  new ResizeObserver(() => {
    if (host.clientWidth === width) return;
    width = host.clientWidth;
    redraw();
  }).observe(host);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
  document.addEventListener("pointerdown", (event) => {
    if (state.pinned && !event.target.closest(".tip, .point")) hideTip();
  });
})();
