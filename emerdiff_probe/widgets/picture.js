// A picture with sharp pixels that tells where it was clicked, drawn on or walked on by keys, and
// the value under the pointer.
const SVG = "http://www.w3.org/2000/svg";
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const ZOOMS = { "+": 1.5, "=": 1.5, "-": 1 / 1.5, 0: 0 };
const HOW =
  "Ctrl (or ⌘) with the wheel, or the keys + - 0, zoom; Ctrl (or ⌘) with a drag moves what is zoomed";

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

// Light on dark, so that it shows on every ground.
function outlined(name, attributes) {
  return ["ep-dark", "ep-light"].map((kind) => shape(name, { ...attributes, class: kind }));
}

function render({ model, el }) {
  const root = document.createElement("figure");
  root.className = "ep-picture";
  // Else JupyterLab moves from cell to cell by the same keys.
  root.dataset.lmSuppressShortcuts = "true";
  const caption = document.createElement("figcaption");
  const frame = document.createElement("div");
  frame.className = "ep-frame";
  const inside = document.createElement("div");
  const files = { image: document.createElement("img"), over: document.createElement("img") };
  for (const image of Object.values(files)) Object.assign(image, { alt: "", draggable: false });
  const cover = shape("svg", { tabindex: 0, role: "application", preserveAspectRatio: "none" });
  const below = document.createElement("div");
  below.className = "ep-below";
  const where = document.createElement("span");
  const middle = () => {
    const [scale, top, left] = model.get("zoom");
    return [top + 0.5 / scale, left + 0.5 / scale];
  };
  const look = (zoom) => tellRow(root, "ep-zoom", zoom);
  const zoomBy = (by, at) => look(by ? zoomed(model.get("zoom"), by, at) : [1, 0, 0]);
  const whole = button("1:1", "whole picture", () => zoomBy(0));
  below.append(
    where,
    button("−", "zoom out", () => zoomBy(1 / 1.5, middle())),
    button("+", "zoom in", () => zoomBy(1.5, middle())),
    whole,
  );
  inside.append(files.image, files.over, cover);
  frame.append(inside);
  root.append(caption, frame, below);
  el.append(root);

  const addresses = {};
  function drawFile(name) {
    const content = model.get(name);
    files[name].style.display = content.byteLength ? "" : "none";
    if (addresses[name]) URL.revokeObjectURL(addresses[name]);
    addresses[name] = content.byteLength ? URL.createObjectURL(new Blob([content])) : "";
    if (content.byteLength) files[name].src = addresses[name];
  }

  const pointed = shape("g", {});
  function drawCover() {
    const [height, width] = model.get("extent");
    const [rows, columns] = model.get("grid");
    cover.setAttribute("viewBox", `0 0 ${width} ${height}`);
    cover.replaceChildren();
    const [down, across] = [height / rows, width / columns];
    for (const [row, column] of model.get("cells")) {
      const box = { x: column * across, y: row * down, width: across, height: down };
      cover.append(...outlined("rect", box));
    }
    const arm = (0.03 * Math.max(height, width)) / model.get("zoom")[0];
    model.get("marks").forEach(([y, x], number) => {
      const path = `M${x - arm} ${y}H${x + arm}M${x} ${y - arm}V${y + arm}`;
      cover.append(...outlined("path", { d: path, "data-mark": number }));
      if (model.get("marks").length < 2) return;
      const label = shape("text", { x: x + arm / 2, y: y - arm / 2, "font-size": 1.6 * arm });
      label.textContent = number + 1;
      cover.append(label);
    });
    cover.append(pointed);
  }

  function drawZoom() {
    const [scale, top, left] = model.get("zoom");
    const size = `${100 * scale}%`;
    Object.assign(inside.style, { width: size, height: size });
    Object.assign(inside.style, { top: `${-100 * scale * top}%`, left: `${-100 * scale * left}%` });
    whole.disabled = scale === 1;
    drawCover();
  }

  function drawRest() {
    caption.textContent = model.get("caption");
    cover.setAttribute("aria-label", `${model.get("caption")}. Click, or move with arrow keys.`);
    files.over.style.opacity = model.get("opacity");
    const [height, width] = model.get("extent");
    // Never so high that controls and picture are not seen at once.
    frame.style.maxWidth = `min(${model.get("width")}px, ${(60 * width) / height}vh)`;
    frame.style.aspectRatio = `${width} / ${height}`;
  }

  let values = null;
  function readValues() {
    const bytes = model.get("values");
    const { buffer, byteOffset, byteLength } = bytes;
    values = byteLength ? new Float32Array(buffer.slice(byteOffset, byteOffset + byteLength)) : null;
  }

  function drawPointed({ detail }) {
    pointed.replaceChildren();
    where.textContent = "";
    if (!detail.at) return;
    const [height, width] = model.get("extent");
    const [y, x] = [detail.at[0] * height, detail.at[1] * width];
    if (detail.from !== root) {
      const arm = (0.02 * Math.max(height, width)) / model.get("zoom")[0];
      const path = `M${x - arm} ${y}H${x + arm}M${x} ${y - arm}V${y + arm}`;
      pointed.append(...outlined("path", { d: path }));
    }
    const words = detail.from === root ? [`y ${Math.floor(y)}, x ${Math.floor(x)}`] : [];
    if (values) {
      const [rows, columns] = model.get("value_grid");
      const place = (share, count) => Math.min(Math.floor(share * count), count - 1);
      const found = values[place(detail.at[0], rows) * columns + place(detail.at[1], columns)];
      const number = Number.isInteger(found) ? found : Number(found.toPrecision(3));
      words.push(`${model.get("value_name")} ${Number.isNaN(number) ? "unknown" : number}`);
    }
    where.textContent = words.join(": ");
  }

  function share(event) {
    const box = cover.getBoundingClientRect();
    const inside = (at) => Math.min(Math.max(at, 0), 1 - 1e-6);
    return [
      inside((event.clientY - box.top) / box.height),
      inside((event.clientX - box.left) / box.width),
    ];
  }
  function place(event) {
    const [height, width] = model.get("extent");
    const [y, x] = share(event);
    return [y * height, x * width];
  }

  let count = 0;
  function tell(trait, content) {
    // Counted, so that the same place twice is two events.
    count += 1;
    model.set(trait, { ...content, count });
    model.save_changes();
  }

  let path = null;
  let way = [];
  let moving = null;
  let farthest = 0;
  cover.addEventListener("pointerdown", (event) => {
    const moves = event.button === 1 || event.ctrlKey || event.metaKey;
    if (event.button !== 0 && !moves) return;
    if (moves) event.preventDefault();
    cover.setPointerCapture(event.pointerId);
    farthest = 0;
    path = [place(event)];
    moving = { at: [event.clientY, event.clientX], zoom: model.get("zoom"), only: moves };
    if (moves || !model.get("draws")) return;
    way = outlined("polyline", {});
    cover.append(...way);
  });
  cover.addEventListener("pointermove", (event) => {
    tellRow(root, "ep-point", { at: share(event), from: root });
    if (!path) return;
    const [down, across] = [event.clientY - moving.at[0], event.clientX - moving.at[1]];
    // A line that comes back to where it began is not a click.
    farthest = Math.max(farthest, Math.hypot(down, across));
    if (way.length) {
      path.push(place(event));
      const points = path.map(([y, x]) => `${x},${y}`).join(" ");
      for (const line of way) line.setAttribute("points", points);
    } else if (farthest > 4) {
      const [scale, top, left] = moving.zoom;
      const box = cover.getBoundingClientRect();
      look(within([scale, top - down / box.height, left - across / box.width]));
    }
  });
  cover.addEventListener("pointerleave", () => tellRow(root, "ep-point", {}));
  function endWay() {
    for (const line of way) line.remove();
    path = null;
    way = [];
  }
  cover.addEventListener("pointercancel", () => path && endWay());
  cover.addEventListener("pointerup", (event) => {
    if (!path) return;
    const [y, x] = path[0];
    const isFar = farthest > 4;
    if (way.length && isFar) tell("dragged", { path: [...path, place(event)], shift: event.shiftKey });
    else if (!isFar && !moving.only) tell("clicked", { y, x, shift: event.shiftKey });
    endWay();
  });
  const wheel = (event) => {
    // Without the key the notebook scrolls, as anywhere else.
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY / 300), share(event));
  };
  cover.addEventListener("wheel", wheel, { passive: false });
  cover.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (!step && !(event.key in ZOOMS)) return;
    event.preventDefault();
    event.stopPropagation();
    const [height, width] = model.get("extent");
    const [y, x] = model.get("cursor").length ? model.get("cursor") : [height / 2, width / 2];
    if (!step) {
      const at = model.get("cursor").length ? [y / height, x / width] : middle();
      zoomBy(ZOOMS[event.key], at);
      return;
    }
    const [rows, columns] = model.get("grid");
    const cell = (at, size, cells, by) =>
      ((Math.min(Math.max(Math.floor((at / size) * cells) + by, 0), cells - 1) + 0.5) * size) / cells;
    const next = { y: cell(y, height, rows, step[0]), x: cell(x, width, columns, step[1]) };
    tell("clicked", { ...next, shift: event.shiftKey });
  });
  root.addEventListener("ep-zoom", ({ detail }) => model.set("zoom", detail));
  root.addEventListener("ep-point", drawPointed);

  // One name each: not every front end takes several.
  const on = (names, draw) => names.forEach((name) => model.on(`change:${name}`, draw));
  for (const name of Object.keys(files)) on([name], () => drawFile(name));
  on(["marks", "cells", "extent", "grid"], drawCover);
  on(["caption", "width", "extent", "opacity"], drawRest);
  on(["zoom"], drawZoom);
  on(["values"], readValues);
  Object.keys(files).forEach(drawFile);
  below.title = HOW;
  drawZoom();
  drawRest();
  readValues();
  hear(model);
  return () => Object.values(addresses).forEach((address) => address && URL.revokeObjectURL(address));
}

export default { render };
