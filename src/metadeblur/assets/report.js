"use strict";
document.documentElement.classList.remove("plain");

// Fit, 2x and 4x of pictures on a stage: by buttons or a double-click, moved about by dragging and by the arrow keys.
// A stage with a line between two pictures has this dragged first of all: line.handle is its slider, line.near(event)
// tells whether the pointer is at it, line.follow(event) takes it there; the arrow keys are its own without Shift.
function startMagnifier(stage, pictures, buttons, line) {
  let zoom = 1, shiftX = 0, shiftY = 0, held = null;

  function place() {
    const box = stage.getBoundingClientRect();
    shiftX = Math.min(0, Math.max(box.width * (1 - zoom), shiftX));
    shiftY = Math.min(0, Math.max(box.height * (1 - zoom), shiftY));
    for (const picture of pictures) picture.style.transform = zoom === 1 ? "" : `translate(${shiftX}px, ${shiftY}px) scale(${zoom})`;
  }
  function move(sideways, down) {
    shiftX += sideways;
    shiftY += down;
    place();
  }
  function magnify(to, x, y) {
    const box = stage.getBoundingClientRect();
    const [aboutX, aboutY] = [x ?? box.width / 2, y ?? box.height / 2];
    shiftX = aboutX - ((aboutX - shiftX) * to) / zoom;
    shiftY = aboutY - ((aboutY - shiftY) * to) / zoom;
    zoom = to;
    place();
    stage.classList.toggle("near", zoom > 1);
    for (const button of buttons) button.setAttribute("aria-pressed", String(Number(button.dataset.zoom) === zoom));
  }

  for (const button of buttons) button.addEventListener("click", () => magnify(Number(button.dataset.zoom)));
  stage.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.key];
    if (!step || zoom === 1 || (line && !event.shiftKey)) return;
    event.preventDefault();
    move(...step);
  });
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    held = line && (zoom === 1 || line.near(event)) ? "line" : "picture";
    stage.setPointerCapture(event.pointerId);
    stage.classList.add("held");
    if (held === "line" && zoom === 1) {
      // A finger may be about to scroll the page: the line follows once it moves sideways, or was a tap.
      if (event.pointerType === "touch") held = { x: event.clientX, y: event.clientY };
      else line.follow(event);
    }
    (line ? line.handle : stage).focus({ preventScroll: true, focusVisible: false });
    event.preventDefault();
  });
  stage.addEventListener("pointermove", (event) => {
    if (held?.x !== undefined) {
      const [sideways, upwards] = [Math.abs(event.clientX - held.x), Math.abs(event.clientY - held.y)];
      if (Math.max(sideways, upwards) > 5) held = sideways > upwards ? "line" : null;
    }
    if (held === "line") line.follow(event);
    else if (held === "picture") move(event.movementX, event.movementY);
  });
  stage.addEventListener("pointerup", (event) => {
    if (held?.x !== undefined) line.follow(event);
  });
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => { held = null; stage.classList.remove("held"); });
  stage.addEventListener("dblclick", (event) => {
    const box = stage.getBoundingClientRect();
    magnify(zoom === 1 ? 2 : 1, event.clientX - box.left, event.clientY - box.top);
  });
  addEventListener("resize", place);
}

function startViewer(viewer) {
  const stage = viewer.querySelector(".stage");
  const slider = stage.querySelector("input");
  const [left, right] = ["left", "right"].map((side) => {
    const layer = stage.querySelector(".layer." + side);
    return { picture: layer.querySelector("img"), tag: layer.querySelector(".tag") };
  });
  const frames = [...viewer.querySelectorAll(".strip button")];
  const choices = [...viewer.querySelectorAll(".choice input")];
  const frameName = viewer.querySelector(".frame-name");
  const names = JSON.parse(viewer.dataset.names);
  let shown = frames.find((frame) => frame.getAttribute("aria-pressed") === "true") || frames[0];
  let compared = viewer.dataset.compared.split(" ");
  // The first frame's pictures are on the stage already; the others wait in their buttons until they are asked for.
  shown.dataset[compared[0]] = left.picture.src;
  shown.dataset[compared[1]] = right.picture.src;

  function split(percent) {
    const at = Math.min(100, Math.max(0, percent));
    slider.value = at;
    stage.style.setProperty("--at", at + "%");
    slider.setAttribute("aria-valuetext", Math.round(at) + " % " + left.tag.textContent + ", " + Math.round(100 - at) + " % " + right.tag.textContent);
    left.tag.style.opacity = at < 12 ? 0 : 1;
    right.tag.style.opacity = at > 88 ? 0 : 1;
  }
  function splitAt(event) {
    const box = stage.getBoundingClientRect();
    split((100 * (event.clientX - box.left)) / box.width);
  }
  function show() {
    [left, right].forEach((side, number) => {
      const kind = compared[number];
      side.picture.src = shown.dataset[kind];
      side.picture.alt = `Frame ${shown.dataset.frame}, ${names[kind].toLowerCase()}`;
      side.tag.textContent = names[kind];
    });
    for (const frame of frames) frame.setAttribute("aria-pressed", String(frame === shown));
    frameName.textContent = shown.dataset.frame;
    split(Number(slider.value));
  }

  for (const frame of frames) frame.addEventListener("click", () => { shown = frame; show(); });
  for (const choice of choices) choice.addEventListener("change", () => { compared = choice.value.split(" "); show(); });
  slider.addEventListener("input", () => split(Number(slider.value)));
  startMagnifier(stage, [left.picture, right.picture], viewer.querySelectorAll("[data-zoom]"), {
    handle: slider,
    near: (event) => {
      const box = stage.getBoundingClientRect();
      return Math.abs(event.clientX - box.left - (box.width * Number(slider.value)) / 100) < 30;
    },
    follow: splitAt,
  });
  split(50);
  const reel = viewer.querySelector(".strip ol");
  const spot = shown.parentElement;
  reel.scrollLeft = spot.offsetLeft + spot.offsetWidth / 2 - reel.clientWidth / 2;
}

function startPlot(area) {
  const values = area.dataset.values.split(",").map((text) => (text === "" ? NaN : Number(text)));
  if (values.length < 2) return;
  const reading = document.createElement("div");
  reading.className = "reading";
  reading.hidden = true;
  reading.append(document.createElement("span"));
  area.append(reading);
  function read(event) {
    const box = area.getBoundingClientRect();
    const index = Math.round(((event.clientX - box.left) / box.width) * (values.length - 1));
    const value = values[index];
    reading.hidden = !Number.isFinite(value);
    if (reading.hidden) return;
    reading.style.left = (100 * index) / (values.length - 1) + "%";
    reading.classList.toggle("flip", index > values.length / 2);
    reading.firstChild.textContent = `${area.dataset.name} ${index + Number(area.dataset.start)}: ${value.toPrecision(4)}`;
  }
  area.addEventListener("pointermove", read);
  area.addEventListener("pointerdown", read);
  area.addEventListener("pointerleave", () => { reading.hidden = true; });
}

document.querySelectorAll(".viewer").forEach(startViewer);
document.querySelectorAll(".plot-area[data-values]:not([data-values=''])").forEach(startPlot);
