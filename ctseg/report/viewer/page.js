const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const root = document.documentElement;
// name, NiiVue's slice type, key, and the axes (x, y, z) that run across, up and into the picture
const VIEWS = [
  ["All", 3, "m", [0, 1, 2]], ["Axial", 0, "a", [0, 1, 2]], ["Coronal", 1, "c", [0, 2, 1]],
  ["Sagittal", 2, "s", [1, 2, 0]], ["3D", 4, "d", [0, 1, 2]],
];
const nv = new globalThis.Niivue({
  isRadiologicalConvention: true,
  sagittalNoseLeft: true,
  isSliceMM: true, // slices along the axes of space, as surfaces are
  meshThicknessOn2D: 0,
  multiplanarShowRender: 1,
  multiplanarLayout: 2,
  multiplanarPadPixels: 4,
  dragAndDropEnabled: false,
  crosshairColor: [0.95, 0.75, 0.2, 0.9],
  crosshairWidth: 0.5,
  crosshairWidthUnit: "percent",
  crosshairGap: 6,
  longTouchTimeout: 2 ** 31 - 1, // else a finger that rests changes the window
  loadingText: "",
  logLevel: "error",
});
let view = VIEWS[0];

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
}

function element(parent, tag, properties) {
  const made = Object.assign(document.createElement(tag), properties);
  parent.append(made);
  return made;
}

function button(parent, text, act) {
  return element(parent, "button", { type: "button", textContent: text, onclick: (event) => act(event.currentTarget) });
}

function press(group, chosen) {
  for (const one of group.children) one.setAttribute("aria-pressed", String(one === chosen));
}

function volume(mm3) {
  if (data.unit === "um" && mm3 < 1) return `${Number((mm3 * 1e9).toPrecision(4)).toLocaleString("en")} µm³`;
  return mm3 < 1000 ? `${Number(mm3.toPrecision(4))} mm³` : `${(mm3 / 1000).toFixed(mm3 < 1e6 ? 2 : 1)} ml`;
}

function paint(index) {
  const { labels, on } = data.layers[index];
  const part = (k) => [0, ...labels.map((label) => label.colour[k])];
  nv.volumes[index + 1].setColormapLabel({
    R: part(0), G: part(1), B: part(2),
    A: [0, ...on.map((shown) => (shown ? 255 : 0))],
    I: [0, ...labels.map((_, i) => i + 1)],
    labels: ["", ...labels.map((label) => label.name)],
  });
  labels.forEach((label, i) => { if (label.mesh) label.mesh.visible = on[i]; });
  nv.updateGLVolume();
  located();
}

function legend() {
  data.layers.forEach((layer, index) => {
    layer.on = layer.labels.map(() => layer.shown);
    layer.boxes = [];
    element(at("legend"), "h2", { textContent: layer.name });
    layer.labels.forEach((label, number) => {
      const row = element(at("legend"), "div");
      const box = element(row, "input", { type: "checkbox", checked: layer.shown, ariaLabel: label.name });
      box.addEventListener("change", () => { layer.on[number] = box.checked; paint(index); });
      element(row, "i").style.background = `rgb(${label.colour})`;
      button(row, label.name, () => go(label)).title = "Go to this label";
      element(row, "data", { value: label.mm3, textContent: volume(label.mm3) });
      layer.boxes.push(box);
    });
    paint(index);
  });
}

function go(label) {
  if (label.at) move(nv.mm2frac(label.at));
}

function move(fraction) {
  nv.scene.crosshairPos = fraction;
  nv.drawScene();
  nv.createOnLocationChange();
}

function all() {
  const on = !data.layers.some((layer) => layer.on.some(Boolean));
  data.layers.forEach((layer, index) => {
    layer.on.fill(on);
    for (const box of layer.boxes) box.checked = on;
    paint(index);
  });
}

function opacity(value) {
  at("opacity").value = value;
  data.layers.forEach((_, index) => nv.setOpacity(index + 1, Number(at("opacity").value)));
}

let last;
function located(where = last) {
  if (!where) return;
  last = where;
  const lengths = data.unit === "um" ? "µm" : "mm"; // the embedded file has the unit's numbers
  const [x, y, z] = where.mm;
  const value = where.values[0].value;
  const parts = [`${[-x, -y, z].map((v) => v.toFixed(1)).join(", ")} ${lengths} (LPS)`, `value ${Number(value.toFixed(3))}`];
  data.layers.forEach((layer, index) => {
    const number = Math.round(where.values[index + 1].value) - 1;
    if (layer.on?.[number]) parts.push(data.layers.length > 1 ? `${layer.name}: ${layer.labels[number].name}` : layer.labels[number].name);
  });
  at("location").textContent = parts.join("  ·  ");
  const axis = view[3][2];
  const count = nv.volumes[0].dimsRAS[axis + 1];
  const slice = Math.min(count - 1, Math.max(0, Math.round(nv.scene.crosshairPos[axis] * count - 0.5)));
  Object.assign(at("slice"), { max: count - 1, value: slice });
  at("plane").textContent = `${["Sagittal", "Coronal", "Axial"][axis]} ${slice + 1} of ${count}`;
}

function slide() {
  const axis = view[3][2];
  const fraction = [...nv.scene.crosshairPos];
  fraction[axis] = (Number(at("slice").value) + 0.5) / nv.volumes[0].dimsRAS[axis + 1];
  move(fraction);
}

function windowed(low, high) {
  nv.volumes[0].cal_min = low;
  nv.volumes[0].cal_max = high;
  Object.assign(at("low"), { value: Number(low.toPrecision(5)) });
  Object.assign(at("high"), { value: Number(high.toPrecision(5)) });
}

function typed() {
  const [low, high] = [at("low").valueAsNumber, at("high").valueAsNumber];
  if (!(high > low)) return;
  press(at("windows"), null);
  windowed(low, high);
  nv.updateGLVolume();
}

function theme(dark) {
  root.classList.toggle("dark", dark);
  nv.opts.backColor = dark ? [0.043, 0.055, 0.067, 1] : [1, 1, 1, 1];
  nv.opts.fontColor = [0.55, 0.6, 0.65, 1];
  nv.drawScene();
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || at("help").open || event.target.type === "number") return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.target.type === "range" && (key.startsWith("Arrow") || key.startsWith("Page"))) return;
  const [across, up, into] = view[3];
  const moves = {
    ArrowLeft: [across, 1], ArrowRight: [across, -1], ArrowUp: [up, 1], ArrowDown: [up, -1],
    PageUp: [into, 1], PageDown: [into, -1],
  };
  const chosen = VIEWS.findIndex((one) => one[2] === key);
  if (moves[key]) {
    const step = [0, 0, 0];
    step[moves[key][0]] = moves[key][1];
    nv.moveCrosshairInVox(...step);
  } else if (chosen >= 0) at("views").children[chosen].click();
  else if (at("windows").children[key - 1]) at("windows").children[key - 1].click();
  else if (key === "+" || key === "=") opacity(Number(at("opacity").value) + 0.1);
  else if (key === "-") opacity(Number(at("opacity").value) - 0.1);
  else if (key === "o") all();
  else if (key === "b") at("solid").click();
  else if (key === "t") at("theme").click();
  else if (key === "?") at("help").showModal();
  else return;
  event.preventDefault();
  event.stopPropagation();
}

async function surfaces() {
  nv.updateGLVolume = () => {}; // else each mesh draws everything anew
  for (const layer of data.layers) {
    for (const label of layer.labels) {
      if (!label.surface) continue;
      label.mesh = await nv.addMeshFromUrl({ url: "label.mz3", buffer: bytes(label.surface), rgba255: [...label.colour, 255] });
      delete label.surface;
    }
  }
  delete nv.updateGLVolume;
}

// In 3D a dense scan would hide the labels in it: it is drawn there only on request, and then lets surfaces shine through.
function solid(shown) {
  at("solid").checked = shown;
  nv.drawImage3D = shown ? Object.getPrototypeOf(nv).drawImage3D : () => {};
  nv.opts.renderOverlayBlend = 0; // the surfaces stand for the labels
  nv.opts.meshXRay = shown ? 0.35 : 0;
  nv.updateGLVolume();
}

async function start() {
  await nv.attachToCanvas(at("canvas"));
  const surfaced = data.layers.some((layer) => layer.labels.some((label) => label.surface));
  if (surfaced) solid(false);
  await nv.loadFromArrayBuffer(bytes(data.scan), "scan.nii.gz");
  for (const layer of data.layers) await nv.loadFromArrayBuffer(bytes(layer.file), "mask.nii.gz");
  nv.setInterpolation(data.layers.length > 0);
  VIEWS.forEach((one, index) => {
    const made = button(at("views"), one[0], (self) => {
      press(at("views"), self);
      view = one;
      nv.setSliceType(one[1]);
      located();
    });
    if (index === 0) made.click();
  });
  data.windows.forEach(([name, low, high], index) => {
    const made = button(at("windows"), name, (self) => {
      press(at("windows"), self);
      windowed(low, high);
      nv.updateGLVolume();
    });
    if (index === 0) made.click();
  });
  legend();
  opacity(0.5);
  await surfaces();
  data.layers.forEach((_, index) => paint(index));
  at("solid-label").hidden = !surfaced;
  at("opacity").addEventListener("input", () => opacity(at("opacity").value));
  at("solid").addEventListener("change", () => solid(at("solid").checked));
  at("theme").addEventListener("click", () => theme(!root.classList.contains("dark")));
  at("keys").addEventListener("click", () => at("help").showModal());
  at("slice").addEventListener("input", slide);
  for (const id of ["low", "high"]) at(id).addEventListener("change", typed);
  document.addEventListener("keydown", keys, true);
  nv.onLocationChange = located;
  nv.resetBriCon = () => at("windows").children[0].click(); // by a double click or tap
  nv.onIntensityChange = (image) => { press(at("windows"), null); windowed(image.cal_min, image.cal_max); };
  at("note").textContent = data.note;
  theme(matchMedia("(prefers-color-scheme: dark)").matches);
  const largest = data.layers[0]?.labels.reduce((one, two) => (two.mm3 > one.mm3 ? two : one), data.layers[0].labels[0]);
  if (largest?.at) go(largest);
  else nv.createOnLocationChange();
  globalThis.nv = nv;
  root.dataset.ready = "yes";
}

start().catch((error) => {
  at("location").textContent = `This page needs a browser with WebGL 2: ${error.message}`;
  throw error;
});
