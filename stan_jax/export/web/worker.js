// The tracker in a thread of its own, so that the page stays awake.
import * as ort from "./ort.wasm.min.mjs";
import { Tracker } from "./tracker.js";

// Threads need headers that few servers send.
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
ort.env.logLevel = "error";
let tracker = null;

async function open() {
  const about = await (await fetch("about.json")).json();
  const answer = await fetch("tracker.onnx");
  if (!answer.ok) throw new Error("tracker.onnx is not there");
  const total = Number(answer.headers.get("content-length")) || about.bytes;
  const parts = new Uint8Array(total), reader = answer.body.getReader();
  let read = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (read + value.length > total) throw new Error("tracker.onnx is not as it was written");
    parts.set(value, read);
    read += value.length;
    postMessage({ loaded: read / total });
  }
  if (read !== about.bytes) throw new Error("tracker.onnx is not as it was written");
  tracker = await Tracker.open(ort, parts, about);
  return { about };
}

const answers = {
  open,
  start: () => tracker.start(),
  step: async ({ pixels, seen, size, seconds }) => {
    const begun = performance.now();
    const tracks = await tracker.step(pixels, seen, size, seconds);
    return { tracks, took: performance.now() - begun };
  },
};

self.onmessage = async ({ data }) => {
  try {
    postMessage({ number: data.number, result: await answers[data.what](data) });
  } catch (error) {
    postMessage({ number: data.number, error: String(error.message || error) });
  }
};
