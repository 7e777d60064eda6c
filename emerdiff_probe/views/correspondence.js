"use strict";
// Signed responses (location, rgb, y, x) of 8 bits, and what clicking shows of them.
(async () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [tileHeight, tileWidth] = data.tile;
  const area = tileHeight * tileWidth;
  const packed = Uint8Array.from(atob(data.tiles), (char) => char.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const tiles = new Int8Array(await new Response(stream).arrayBuffer());
  const image = new Image();
  image.src = data.picture;
  await image.decode();

  const canvases = { picture: document.getElementById("picture"), grid: document.getElementById("grid") };
  const scale = Math.max(1, Math.floor(768 / Math.max(data.height, data.width)));
  for (const canvas of Object.values(canvases)) {
    canvas.width = data.width * scale;
    canvas.height = data.height * scale;
  }
  const state = { locations: [], pixel: null, shown: null };

  // The norm over RGB of the sum of the chosen locations' signed responses, at every point.
  function pixelsMoved(locations) {
    const sums = new Float32Array(3 * area);
    for (const location of locations) {
      const start = location * 3 * area;
      const weight = data.scale[location];
      for (let i = 0; i < 3 * area; i++) sums[i] += weight * tiles[start + i];
    }
    const norms = new Float32Array(area);
    for (let i = 0; i < area; i++) norms[i] = Math.hypot(sums[i], sums[area + i], sums[2 * area + i]);
    return { values: norms, rows: tileHeight, columns: tileWidth };
  }

  // How much every location moves a point of the responses.
  function movers(pixel) {
    const row = Math.min(tileHeight - 1, Math.floor((pixel.y / data.height) * tileHeight));
    const column = Math.min(tileWidth - 1, Math.floor((pixel.x / data.width) * tileWidth));
    const count = data.rows * data.columns;
    const norms = new Float32Array(count);
    for (let location = 0; location < count; location++) {
      const at = location * 3 * area + row * tileWidth + column;
      norms[location] =
        data.scale[location] * Math.hypot(tiles[at], tiles[at + area], tiles[at + 2 * area]);
    }
    return { values: norms, rows: data.rows, columns: data.columns };
  }

  function draw(canvas, map) {
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.globalAlpha = 1;
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    if (map) {
      const most = map.values.reduce((a, b) => Math.max(a, b), 0);
      const small = document.createElement("canvas");
      small.width = map.columns;
      small.height = map.rows;
      const pixels = new ImageData(map.columns, map.rows);
      map.values.forEach((value, i) => {
        const colour = data.colours[most > 0 ? Math.round((255 * value) / most) : 0];
        pixels.data.set([...colour, 255], 4 * i);
      });
      small.getContext("2d").putImageData(pixels, 0, 0);
      context.globalAlpha = Number(document.getElementById("opacity").value);
      context.drawImage(small, 0, 0, canvas.width, canvas.height);
      context.globalAlpha = 1;
    }
    mark(context, canvas);
  }

  function mark(context, canvas) {
    const [down, across] = [canvas.height / data.rows, canvas.width / data.columns];
    const line = Math.max(2, canvas.width / 300);
    const stroke = (path) => {
      for (const [width, colour] of [[2.5 * line, "black"], [line, "white"]]) {
        context.lineWidth = width;
        context.strokeStyle = colour;
        context.stroke(path);
      }
    };
    for (const location of state.locations) {
      const path = new Path2D();
      const row = Math.floor(location / data.columns);
      path.rect((location % data.columns) * across, row * down, across, down);
      stroke(path);
    }
    if (state.pixel) {
      const [x, y] = [state.pixel.x * scale, state.pixel.y * scale];
      const path = new Path2D();
      path.moveTo(x - 5 * line, y);
      path.lineTo(x + 5 * line, y);
      path.moveTo(x, y - 5 * line);
      path.lineTo(x, y + 5 * line);
      stroke(path);
    }
  }

  function show() {
    const { locations, pixel, shown } = state;
    const moved = shown === "pixels" ? pixelsMoved(locations) : null;
    const moving = shown === "locations" ? movers(pixel) : null;
    draw(canvases.picture, moved);
    draw(canvases.grid, moving);
    const names = locations.map((l) => `row ${Math.floor(l / data.columns)}, column ${l % data.columns}`);
    const found = moved || moving;
    const best = found.values.reduce((top, value, i) => (value > found.values[top] ? i : top), 0);
    const at = `row ${Math.floor(best / found.columns)}, column ${best % found.columns}`;
    document.getElementById("said").textContent = moved
      ? `Pixels moved by ${names.length > 1 ? `${names.length} locations` : `location ${names[0]}`}.`
      : `Locations that move pixel y ${Math.floor(pixel.y)}, x ${Math.floor(pixel.x)}: most, ${at}.`;
    document.getElementById("most").textContent = found.values[best].toPrecision(3);
    document.body.dataset.best = best;
  }

  function chooseLocation(location, adding) {
    const others = adding ? state.locations.filter((each) => each !== location) : [];
    const removing = adding && state.locations.includes(location) && others.length > 0;
    Object.assign(state, { locations: removing ? others : [...others, location], pixel: null, shown: "pixels" });
    show();
  }

  function choosePixel(y, x) {
    Object.assign(state, { locations: [], pixel: { y, x }, shown: "locations" });
    show();
  }

  function place(canvas, event) {
    const box = canvas.getBoundingClientRect();
    const inside = (value, size) => Math.min(size - 1e-3, Math.max(0, value * size));
    return {
      y: inside((event.clientY - box.top) / box.height, data.height),
      x: inside((event.clientX - box.left) / box.width, data.width),
    };
  }

  canvases.grid.addEventListener("click", (event) => {
    const { y, x } = place(canvases.grid, event);
    const row = Math.floor((y / data.height) * data.rows);
    chooseLocation(row * data.columns + Math.floor((x / data.width) * data.columns), event.shiftKey);
  });
  canvases.picture.addEventListener("click", (event) => {
    const { y, x } = place(canvases.picture, event);
    choosePixel(Math.floor(y) + 0.5, Math.floor(x) + 0.5);
  });
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const within = (value, size) => Math.min(size - 1, Math.max(0, value));
  canvases.grid.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const last = state.locations.at(-1) ?? 0;
    const row = within(Math.floor(last / data.columns) + step[0], data.rows);
    chooseLocation(row * data.columns + within((last % data.columns) + step[1], data.columns), event.shiftKey);
  });
  canvases.picture.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const { y, x } = state.pixel ?? { y: data.height / 2, x: data.width / 2 };
    choosePixel(within(Math.floor(y) + step[0], data.height) + 0.5, within(Math.floor(x) + step[1], data.width) + 0.5);
  });
  document.getElementById("opacity").addEventListener("input", show);

  const bar = document.getElementById("bar").getContext("2d");
  data.colours.forEach((colour, i) => {
    bar.fillStyle = `rgb(${colour})`;
    bar.fillRect(i / 2, 0, 1, 1);
  });
  chooseLocation(Math.floor(data.rows / 2) * data.columns + Math.floor(data.columns / 2), false);
})();
