// The page: frames of a file or the camera to the worker, tracks of it on a canvas.
// ?video=NAME begins with a video beside this page, ?camera with the camera.
import { fitted, paste } from "./tracker.js";

const $ = id => document.getElementById(id);
const view = $("view"), pen = view.getContext("2d", { willReadFrequently: true }), video = $("video");
const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map();
let asked = 0, about = null, run = 0; // run: number of the video that is tracked

function ask(what, rest = {}, moved = []) {
  return new Promise((good, bad) => {
    waiting.set(++asked, { good, bad });
    worker.postMessage({ what, number: asked, ...rest }, moved);
  });
}

worker.onmessage = ({ data }) => {
  if (data.loaded !== undefined) return say(`loading ... ${Math.round(100 * data.loaded)} %`);
  const { good, bad } = waiting.get(data.number);
  waiting.delete(data.number);
  if (data.error !== undefined) bad(new Error(data.error)); else good(data.result);
};
worker.onerror = event => say(event.message || "the worker could not be loaded", true);

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").className = wrong ? "wrong" : "";
}

// The next picture of the video, or null where it has ended or another one has begun.
function next(mine) {
  return new Promise(done => {
    if (video.ended || mine !== run) return done(null);
    const end = () => { clear(); setTimeout(() => done(null), 200); }; // the last one may yet come
    const clear = () => { for (const name of ["ended", "emptied", "error"]) video.removeEventListener(name, end); };
    for (const name of ["ended", "emptied", "error"]) video.addEventListener(name, end);
    const there = seconds => { clear(); done(mine === run ? seconds : null); };
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback((_, meta) => there(meta.mediaTime));
    else requestAnimationFrame(() => there(video.currentTime));
  });
}

// Tracks what plays. A file waits for the tracker, a camera does not.
async function track(live, name) {
  const mine = ++run;
  await ask("start");
  $("stop").disabled = false;
  $("wait").hidden = true;
  view.hidden = false;
  const small = new OffscreenCanvas(1, 1), brush = small.getContext("2d", { willReadFrequently: true });
  const ids = new Set(), paces = [];
  const playing = () => video.play().catch(() => {}); // it may have been stopped meanwhile
  let frames = 0, first = null, last = 0, coming = null;

  async function one(seconds) {
    first ??= seconds;
    last = seconds;
    const size = [video.videoHeight, video.videoWidth], seen = fitted(about, ...size);
    const picture = await createImageBitmap(video);
    if (live) coming = next(mine); else video.pause();
    if (small.height !== seen[0] || small.width !== seen[1]) [small.height, small.width] = seen;
    brush.imageSmoothingQuality = "high";
    brush.drawImage(picture, 0, 0, seen[1], seen[0]);
    const pixels = brush.getImageData(0, 0, seen[1], seen[0]).data;
    const begun = performance.now();
    const { tracks } = await ask("step", { pixels, seen, size, seconds: seconds - first }, [pixels.buffer]);
    if (mine !== run) return;
    frames += 1;
    paces.push(performance.now() - begun);
    if (paces.length > 30) paces.shift();
    const shown = tracks.filter(t => t.score >= Number($("score").value));
    shown.forEach(t => ids.add(t.id));
    draw(picture, size, shown);
    picture.close();
    const pace = paces.reduce((a, b) => a + b) / paces.length;
    say(`${name}: ${(seconds - first).toFixed(1)} s, ${frames} frames, ${ids.size} tracks, ${pace.toFixed(0)} ms a frame`);
    if (!live) { coming = next(mine); playing(); }
  }

  // The first picture of a file is there already, and not told again.
  if (live) { coming = next(mine); playing(); } else await one(video.currentTime);
  for (let seconds; (seconds = await coming) !== null;) {
    if (frames && seconds <= last) { coming = next(mine); continue; }
    await one(seconds);
  }
  if (mine !== run) return;
  if (video.error) say(`${name}: the browser cannot read it (${video.error.message || "format"})`, true);
  else say(`${name}: ${frames} frames, ${ids.size} tracks. Done`);
  $("stop").disabled = true;
}

function draw(picture, size, tracks) {
  [view.height, view.width] = size;
  pen.drawImage(picture, 0, 0);
  const scene = pen.getImageData(0, 0, size[1], size[0]), at = scene.data;
  for (const track of tracks) {
    const [r, g, b] = colour(track.id), part = paste(track.mask, track.box, size, about.legacy_paste);
    for (let y = 0; y < part.height; y++)
      for (let x = 0; x < part.width; x++)
        if (part.inside[y * part.width + x]) {
          const pixel = 4 * ((part.top + y) * size[1] + part.left + x);
          at[pixel] = (at[pixel] + r) / 2;
          at[pixel + 1] = (at[pixel + 1] + g) / 2;
          at[pixel + 2] = (at[pixel + 2] + b) / 2;
        }
  }
  pen.putImageData(scene, 0, 0);
  const unit = Math.max(1, Math.min(...size) / 360), high = 14 * unit;
  pen.lineWidth = 1.5 * unit;
  pen.font = `${11 * unit}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  for (const track of [...tracks].reverse()) {
    const paint = `rgb(${colour(track.id).join()})`, [x0, y0, x1, y1] = track.box;
    pen.strokeStyle = pen.fillStyle = paint;
    pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
    const text = `${about.classes[track.label]} ${track.id}  ${track.score.toFixed(2)}`;
    const wide = pen.measureText(text).width + 6 * unit;
    const left = Math.max(0, Math.min(x0, size[1] - wide)), top = y0 >= high ? y0 - high : y0;
    pen.fillRect(left, top, wide, high);
    pen.fillStyle = "#000";
    pen.fillText(text, left + 3 * unit, top + high / 2);
  }
  $("rows").replaceChildren(...tracks.map(track => {
    const row = document.createElement("tr"), mark = document.createElement("td");
    mark.textContent = "\u25a0";
    mark.style.color = `rgb(${colour(track.id).join()})`;
    const cells = [track.id, about.classes[track.label], track.score.toFixed(2)].map(text => {
      const cell = document.createElement("td");
      cell.textContent = text;
      return cell;
    });
    cells[1].className = "name";
    row.append(mark, ...cells);
    return row;
  }));
}

const colour = id => about.colours[id % about.colours.length];

function stop() {
  run += 1;
  video.pause();
  for (const part of video.srcObject?.getTracks() ?? []) part.stop();
  if (video.src.startsWith("blob:")) URL.revokeObjectURL(video.src);
  video.srcObject = null;
  video.removeAttribute("src");
  video.load();
  $("stop").disabled = true;
}

async function play(source, name) {
  stop();
  if (source instanceof MediaStream) video.srcObject = source; else video.src = source;
  try {
    await new Promise((good, bad) => {
      video.onloadeddata = good;
      video.onerror = () => bad(new Error(`the browser cannot read it (${video.error?.message || "format"})`));
    });
    await track(source instanceof MediaStream, name);
  } catch (error) {
    say(`${name}: ${error.message}`, true);
  }
}

async function camera() {
  try {
    await play(await navigator.mediaDevices.getUserMedia({ video: true }), "camera");
  } catch (error) {
    say(`camera: ${error.message}`, true);
  }
}

const take = file => file && play(URL.createObjectURL(file), file.name);
$("open").onclick = () => $("file").click();
$("file").onchange = event => { take(event.target.files[0]); event.target.value = ""; };
$("camera").onclick = camera;
$("stop").onclick = () => { stop(); say("stopped"); };
$("score").oninput = () => { $("least").textContent = Number($("score").value).toFixed(2); };
document.addEventListener("dragover", event => { event.preventDefault(); $("stage").className = "over"; });
document.addEventListener("dragleave", () => { $("stage").className = ""; });
document.addEventListener("drop", event => {
  event.preventDefault();
  $("stage").className = "";
  if (about) take(event.dataTransfer.files[0]);
});

try {
  ({ about } = await ask("open"));
  $("score").value = Math.max(0.3, about.score);
  $("score").oninput();
  const facts = {
    classes: about.classes.join(", "),
    canvas: `${about.canvas[1]} x ${about.canvas[0]}`,
    size: `${(about.bytes / 1e6).toFixed(1)} MB`,
    runtime: `onnxruntime-web ${about.runtime}`,
    "made by": `stan_jax ${about.stan_jax}`,
  };
  for (const [name, text] of Object.entries(facts)) {
    const [dt, dd] = ["dt", "dd"].map(tag => document.createElement(tag));
    [dt.textContent, dd.textContent] = [name, text];
    $("facts").append(dt, dd);
  }
  for (const id of ["open", "camera"]) $(id).disabled = false;
  say("ready");
  const wanted = new URLSearchParams(location.search);
  if (wanted.has("video")) play(wanted.get("video"), wanted.get("video"));
  else if (wanted.has("camera")) camera();
} catch (error) {
  say(`the tracker cannot be opened: ${error.message}`, true);
}
