// A picture with sharp pixels that tells where it was clicked, dragged over or walked on by keys.
const SVG = "http://www.w3.org/2000/svg";
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

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
  const files = { image: document.createElement("img"), over: document.createElement("img") };
  for (const image of Object.values(files)) Object.assign(image, { alt: "", draggable: false });
  const cover = shape("svg", { tabindex: 0, role: "application", preserveAspectRatio: "none" });
  const where = document.createElement("div");
  where.className = "ep-where";
  frame.append(files.image, files.over, cover);
  root.append(caption, frame, where);
  el.append(root);

  const addresses = {};
  function drawFile(name) {
    const content = model.get(name);
    files[name].style.display = content.byteLength ? "" : "none";
    if (addresses[name]) URL.revokeObjectURL(addresses[name]);
    addresses[name] = content.byteLength ? URL.createObjectURL(new Blob([content])) : "";
    if (content.byteLength) files[name].src = addresses[name];
  }

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
    const arm = 0.03 * Math.max(height, width);
    model.get("marks").forEach(([y, x], number) => {
      const path = `M${x - arm} ${y}H${x + arm}M${x} ${y - arm}V${y + arm}`;
      cover.append(...outlined("path", { d: path, "data-mark": number }));
      if (model.get("marks").length < 2) return;
      const label = shape("text", { x: x + arm / 2, y: y - arm / 2, "font-size": 1.6 * arm });
      label.textContent = number + 1;
      cover.append(label);
    });
  }

  function drawRest() {
    caption.textContent = model.get("caption");
    cover.setAttribute("aria-label", `${model.get("caption")}. Click, or move with arrow keys.`);
    files.over.style.opacity = model.get("opacity");
    frame.style.width = `${model.get("width")}px`;
    const [height, width] = model.get("extent");
    frame.style.aspectRatio = `${width} / ${height}`;
  }

  function place(event) {
    const box = cover.getBoundingClientRect();
    const [height, width] = model.get("extent");
    const inside = (share, size) => Math.min(Math.max(share, 0), 1 - 1e-6) * size;
    return [
      inside((event.clientY - box.top) / box.height, height),
      inside((event.clientX - box.left) / box.width, width),
    ];
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
  cover.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    path = [place(event)];
    way = outlined("polyline", {});
    cover.append(...way);
    cover.setPointerCapture(event.pointerId);
  });
  cover.addEventListener("pointermove", (event) => {
    const [y, x] = place(event);
    where.textContent = `y ${Math.floor(y)}, x ${Math.floor(x)}`;
    if (!path) return;
    path.push([y, x]);
    for (const line of way) line.setAttribute("points", path.map(([y, x]) => `${x},${y}`).join(" "));
  });
  cover.addEventListener("pointerleave", () => (where.textContent = ""));
  function endWay() {
    for (const line of way) line.remove();
    path = null;
  }
  cover.addEventListener("pointercancel", () => path && endWay());
  cover.addEventListener("pointerup", (event) => {
    if (!path) return;
    const [begin, end] = [path[0], place(event)];
    const box = cover.getBoundingClientRect();
    const [height, width] = model.get("extent");
    const far = Math.hypot(
      ((end[0] - begin[0]) * box.height) / height,
      ((end[1] - begin[1]) * box.width) / width,
    );
    if (far > 4) tell("dragged", { path: [...path, end], shift: event.shiftKey });
    else tell("clicked", { y: begin[0], x: begin[1], shift: event.shiftKey });
    endWay();
  });
  cover.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const [height, width] = model.get("extent");
    const [rows, columns] = model.get("grid");
    const [y, x] = model.get("cursor").length ? model.get("cursor") : [height / 2, width / 2];
    const cell = (at, size, cells, by) =>
      ((Math.min(Math.max(Math.floor((at / size) * cells) + by, 0), cells - 1) + 0.5) * size) / cells;
    const next = { y: cell(y, height, rows, step[0]), x: cell(x, width, columns, step[1]) };
    tell("clicked", { ...next, shift: event.shiftKey });
  });

  for (const name of Object.keys(files)) model.on(`change:${name}`, () => drawFile(name));
  model.on("change:marks change:cells change:extent change:grid", drawCover);
  model.on("change:caption change:width change:extent change:opacity", drawRest);
  Object.keys(files).forEach(drawFile);
  drawCover();
  drawRest();
  hear(model);
  return () => Object.values(addresses).forEach((address) => address && URL.revokeObjectURL(address));
}

export default { render };
