// An exported tracker in onnxruntime-web: pixels of a frame in, its tracks out. It keeps
// the memory from frame to frame. What it gives is what tracking/tracker.py gives.

const KINDS = { float32: Float32Array, int32: Int32Array, bool: Uint8Array };

export class Tracker {
  // ort: the module of onnxruntime-web; model: bytes of tracker.onnx; about: about.json.
  static async open(ort, model, about) {
    const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
    return new Tracker(ort, session, about);
  }

  constructor(ort, session, about) {
    this.ort = ort;
    this.session = session;
    this.about = about;
    this.start();
  }

  // Forget the video: the next frame is the first of another.
  start() {
    this.memory = {};
    for (const [name, { shape, type }] of Object.entries(this.about.memory)) {
      const size = shape.reduce((product, side) => product * side, 1);
      this.memory[name] = new this.ort.Tensor(type, new KINDS[type](size), shape);
    }
    this.seen = 0;
  }

  // Tracks of the next frame, best first: {id, label, score, box, mask}. The box is xyxy in
  // pixels of the frame; the mask [side * side] holds probabilities over its cells.
  // rgba: as much of the frame as `fitted` says, from its upper left, row by row; seconds:
  // since the video began, or null where frames are counted.
  async step(rgba, [height, width], frameHw, seconds = null) {
    const [ch, cw] = this.about.canvas;
    const frame = new Uint8Array(ch * cw * 3);
    for (let y = 0; y < height; y++)
      for (let x = 0, at = y * cw * 3, from = y * width * 4; x < width; x++, at += 3, from += 4) {
        frame[at] = rgba[from];
        frame[at + 1] = rgba[from + 1];
        frame[at + 2] = rgba[from + 2];
      }
    const { clock_per_frame: each, clock_per_second: every } = this.about;
    const now = Math.round(seconds === null ? each * this.seen : every * seconds);
    const tensor = (type, data, shape) => new this.ort.Tensor(type, data, shape);
    const found = await this.session.run({
      frame: tensor("uint8", frame, [ch, cw, 3]),
      size_hw: tensor("int32", Int32Array.from([height, width]), [2]),
      clock: tensor("int32", Int32Array.from([now]), []),
      ...this.memory,
    });
    for (const name of Object.keys(this.memory)) this.memory[name] = found["new_" + name];
    this.seen += 1;
    return tracks(found, [height, width], frameHw, this.about.legacy_paste);
  }
}

// Height and width at which the model sees frames of this size. A frame of the other
// orientation than the file is for is made smaller until it fits.
export function fitted(about, height, width) {
  const [ch, cw] = about.canvas;
  const [low, high] = [Math.min(...about.scale_hw), Math.max(...about.scale_hw)];
  const factor = Math.min(
    high / Math.max(height, width), low / Math.min(height, width), ch / height, cw / width);
  const side = x => Math.max(Math.floor(x * factor + 0.5), 1);
  return [Math.min(side(height), ch), Math.min(side(width), cw)];
}

function tracks(found, seenHw, frameHw, legacy) {
  const last = new Map(); // of rows with one id the last one counts
  found.valid.data.forEach((valid, row) => valid && last.set(found.ids.data[row], row));
  const [scaleY, scaleX] = [0, 1].map(n => Math.fround(frameHw[n] / seenHw[n]));
  const scales = [scaleX, scaleY, scaleX, scaleY], size = found.masks.dims[1] ** 2;
  const rows = [];
  for (const [id, row] of last) {
    const box = Array.from(found.boxes.data.slice(4 * row, 4 * row + 4), (x, n) => {
      const pixel = legacy && n > 1 ? 1 : 0;
      return Math.fround((x - pixel) * scales[n] + pixel);
    });
    rows.push({
      row, id, box,
      label: found.labels.data[row],
      score: found.scores.data[row],
      mask: found.masks.data.slice(size * row, size * (row + 1)),
    });
  }
  return rows.sort((a, b) => a.row - b.row);
}

// Pixels of a frame that belong to a mask: {top, left, height, width, inside}, the last
// row by row, 1 or 0. It is what masks/paste.py does.
export function paste(mask, box, frameHw, legacy) {
  const side = Math.round(Math.sqrt(mask.length));
  const [left, columns] = stretch(box[0], box[2], frameHw[1], side, legacy);
  const [top, rows] = stretch(box[1], box[3], frameHw[0], side, legacy);
  const width = columns.length, height = rows.length;
  const inside = new Uint8Array(height * width), across = new Float32Array(side * width);
  for (let cell = 0; cell < side; cell++)
    for (let x = 0; x < width; x++) {
      const [a, share] = columns[x];
      across[cell * width + x] = mix(mask[cell * side + a], mask[cell * side + a + 1], a, share, side);
    }
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const [a, share] = rows[y];
      const at = a * width + x;
      const value = mix(across[at], across[at + width], a, share, side);
      inside[y * width + x] = (legacy ? value > 0.5 : value >= 0.5) ? 1 : 0;
    }
  return { top, left, height, width, inside };
}

// First pixel of an axis, and for each from it on the cell before its centre and how far
// it lies behind that cell's.
function stretch(low, high, pixels, side, legacy) {
  let first, last, place;
  if (legacy) { // from the pixel where the box begins to that of its last one
    const begin = Math.trunc(low), size = Math.max(Math.trunc(high - 1) - begin + 1, 1);
    first = Math.min(Math.max(begin, 0), pixels);
    last = Math.min(Math.max(begin + size, first), Math.max(pixels, first));
    place = pixel => Math.min(Math.max((pixel - begin + 0.5) / size * side - 0.5, 0), side - 1);
  } else {
    const size = high - low;
    if (!(size > 0)) return [0, []];
    const reach = size / side / 2;
    first = Math.min(Math.max(Math.floor(low - reach), 0), pixels);
    last = Math.max(Math.min(Math.ceil(high + reach), pixels), first);
    place = pixel => (pixel + 0.5 - low) / size * side - 0.5;
  }
  const places = [];
  for (let pixel = first; pixel < last; pixel++) {
    const at = place(pixel), before = Math.floor(at);
    places.push([before, at - before]);
  }
  return [first, places];
}

// Between two cells; what lies beyond the grid is 0.
function mix(one, other, cell, share, side) {
  const low = cell >= 0 && cell < side ? one : 0;
  const high = cell + 1 >= 0 && cell + 1 < side ? other : 0;
  return low * (1 - share) + high * share;
}
