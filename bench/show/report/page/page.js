"use strict";
document.documentElement.classList.add("js");

// tables: a click sorts the lines within each block, since only rows of one block are ranked against each other
for (const table of document.querySelectorAll(".ranking")) {
  const heads = [...table.tHead.rows[0].cells];
  const before = [...table.tBodies].map(body => [...body.rows]);
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const first = head.dataset.direction === "lower" ? "ascending" : "descending";
    const second = first === "ascending" ? "descending" : "ascending";
    const order = { [first]: second, [second]: "" }[head.getAttribute("aria-sort")] ?? first;
    heads.forEach(other => other.removeAttribute("aria-sort"));
    if (order) head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const value = row => row.cells[column].dataset.value;
    [...table.tBodies].forEach((body, i) => {
      const [block, ...lines] = before[i];
      if (order) lines.sort((a, b) => (value(a) === undefined) - (value(b) === undefined) || sign * (value(a) - value(b)) || 0);
      body.append(block, ...lines);
    });
  }));
}

// notes: a box beside an element with its note, or the texts of its aria-describedby
const tip = document.getElementById("tip");
const hide = () => { tip.hidden = true; };
function show(event) {
  const at = event.target.closest?.(".noted, .ranking thead button");
  const ids = at?.getAttribute("aria-describedby")?.split(" ") ?? [];
  const texts = [at?.dataset.note, ...ids.map(id => document.getElementById(id)?.textContent.trim())].filter(Boolean);
  if (!texts.length) return hide();
  tip.textContent = texts.join(" · ");
  tip.hidden = false;
  const box = at.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const below = box.bottom + 8 + own.height < innerHeight;
  tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - own.width - 8))}px`;
  tip.style.top = `${below ? box.bottom + 8 : box.top - own.height - 8}px`;
}
for (const type of ["pointerover", "focusin"]) document.addEventListener(type, show);
for (const type of ["pointerleave", "focusout", "scroll"]) document.addEventListener(type, hide, true);
document.addEventListener("keydown", event => { if (event.key === "Escape") hide(); });

// the latent pointer: enlarges the tile of the decoded plane under the pointer
for (const explorer of document.querySelectorAll(".explorer[data-columns]")) {
  const tiles = explorer.querySelector(".tiles"), canvas = explorer.querySelector("canvas");
  const columns = +explorer.dataset.columns, rows = +explorer.dataset.rows;
  const [u0, u1, v0, v1] = ["u0", "u1", "v0", "v1"].map(name => +explorer.dataset[name]);
  const inside = value => Math.max(0, Math.min(1, value));
  let x = .5, y = .5;
  function move(left, top) {
    [x, y] = [inside(left), inside(top)];
    const column = Math.min(columns - 1, Math.floor(x * columns)), row = Math.min(rows - 1, Math.floor(y * rows));
    const w = tiles.naturalWidth / columns, h = tiles.naturalHeight / rows;
    canvas.height = Math.round(canvas.width * h / w) || canvas.width;
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = false;
    pen.drawImage(tiles, column * w, row * h, w, h, 0, 0, canvas.width, canvas.height);
    explorer.querySelector("g.pointer").setAttribute("transform", `translate(${x * 340} ${y * 340})`);
    const dot = explorer.querySelector("span.pointer");
    dot.style.left = `${x * 100}%`;
    dot.style.top = `${rows > 1 ? y * 100 : 50}%`;
    const number = value => value.toFixed(2).replace("-", "\u2212");
    explorer.querySelector("output").textContent = rows > 1
      ? `(${number(u0 + x * (u1 - u0))}, ${number(v1 + y * (v0 - v1))})` : `z[0] = ${number(u0 + x * (u1 - u0))}`;
  }
  for (const field of explorer.querySelectorAll(".field")) {
    const square = field.querySelector(".square");
    for (const type of ["pointermove", "pointerdown"]) square.addEventListener(type, event => {
      const box = square.getBoundingClientRect();
      move((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    });
    field.addEventListener("keydown", event => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      move(x + step[0] / columns, y + step[1] / (rows > 1 ? rows : 20));
    });
  }
  tiles.decode().then(() => move(.5, .5), () => {});
}

// print: notes are open, since there is no pointer
addEventListener("beforeprint", () => document.querySelectorAll("details.notes").forEach(notes => { notes.open = true; }));
