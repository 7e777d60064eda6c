// Branches that open; boxes that tell which of them was clicked and show what Python says of it.
function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "ep-tree";
  root.setAttribute("role", "tree");
  // Else JupyterLab takes the keys that open branches and tick boxes.
  root.dataset.lmSuppressShortcuts = "true";
  el.append(root);

  const branches = model.get("branches");
  const places = [root];
  const boxes = branches.map(({ label, depth, holds }, number) => {
    const box = document.createElement("input");
    const size = document.createElement("span");
    Object.assign(box, { type: "checkbox", ariaLabel: label });
    size.textContent = holds;
    const grows = branches[number + 1]?.depth > depth;
    const line = document.createElement(grows ? "summary" : "div");
    line.append(box, label, size);
    if (grows) {
      const branch = document.createElement("details");
      branch.append(line);
      places[depth].append(branch);
      places[depth + 1] = branch;
    } else {
      places[depth].append(line);
    }
    box.addEventListener("click", (event) => {
      event.stopPropagation();
      const count = (model.get("clicked").count ?? 0) + 1;
      model.set("clicked", { number, count });
      model.save_changes();
      // What is ticked is for Python to say.
      setTimeout(paint);
    });
    return box;
  });

  function paint() {
    model.get("states").forEach((state, number) => {
      boxes[number].checked = state === 2;
      boxes[number].indeterminate = state === 1;
    });
  }
  model.on("change:states", paint);
  paint();
  hear(model);
  return () => model.off("change:states", paint);
}

export default { render };
