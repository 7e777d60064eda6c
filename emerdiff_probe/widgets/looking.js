// Which part of a picture is in its frame, as [scale, top, left]: the upper left corner is a share
// of the picture. Pictures in one row are looked at together.
const MOST = 16;

function within([scale, top, left]) {
  const end = 1 - 1 / scale;
  return [scale, Math.min(Math.max(top, 0), end), Math.min(Math.max(left, 0), end)];
}

// The place under the pointer, [y, x] as shares of the picture, stays where it is.
function zoomed([scale, top, left], by, [y, x]) {
  const next = Math.min(Math.max(scale * by, 1), MOST);
  return within([next, y - ((y - top) * scale) / next, x - ((x - left) * scale) / next]);
}

function tellRow(root, name, detail) {
  const row = root.closest(".ep-row");
  const every = row ? row.querySelectorAll(".ep-picture") : [root];
  for (const each of every) each.dispatchEvent(new CustomEvent(name, { detail }));
}

function button(label, title, act) {
  const found = document.createElement("button");
  Object.assign(found, { type: "button", textContent: label, title, ariaLabel: title });
  found.addEventListener("click", act);
  return found;
}

