// Times the models of this folder with onnxruntime-web (WebAssembly, one thread). Writes answers.json.
//     npm install onnxruntime-web && node run.mjs
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import * as ort from "onnxruntime-web";

const here = path.dirname(fileURLToPath(import.meta.url));
const listed = JSON.parse(fs.readFileSync(path.join(here, "models.json")));
ort.env.wasm.numThreads = 1;
const rounds = 30, warm = 10, feeds = {};
const arrays = {
  float32: Float32Array, float64: Float64Array, int64: BigInt64Array, int32: Int32Array, bool: Uint8Array,
  uint8: Uint8Array, int8: Int8Array,
};
for (const [name, about] of Object.entries(listed.web_inputs)) {
  const bytes = fs.readFileSync(path.join(here, about.file));
  const array = arrays[about.type];
  const values = new array(bytes.buffer, bytes.byteOffset, bytes.byteLength / array.BYTES_PER_ELEMENT);
  feeds[name] = new ort.Tensor(about.type, values, about.shape);
}
// in turns: what runs first is compiled while it runs
const sessions = [];
for (const name of listed.models) {
  sessions.push(await ort.InferenceSession.create(fs.readFileSync(path.join(here, name))));
}
const taken = sessions.map(() => []);
for (let turn = 0; turn < rounds + warm; turn++) {
  for (const [number, session] of sessions.entries()) {
    const start = performance.now();
    await session.run(feeds);
    if (turn >= warm) taken[number].push(performance.now() - start);
  }
}
const ms = {};
for (const [number, name] of listed.models.entries()) {
  ms[name] = taken[number].sort((a, b) => a - b)[Math.floor(rounds / 4)];
}
const answers = { structure: listed.structure, device: `${process.platform} ${process.arch}, WebAssembly`,
  runtime: `onnxruntime-web ${ort.env.versions.web ?? ort.env.versions.common}`, threads: 1, ms };
fs.writeFileSync(path.join(here, "answers.json"), JSON.stringify(answers, null, 1) + "\n");
console.log("wrote", path.join(here, "answers.json"));
