// node node.mjs original.onnx pruned.onnx [samples.json]: compares two models on onnxruntime-web, prints JSON.
import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-web";
import { compare } from "./compare.mjs";

const [a, b, given] = process.argv.slice(2);
if (!a || !b) {
  console.error("usage: node node.mjs original.onnx pruned.onnx [samples.json]");
  process.exit(2);
}
const samples = given ? JSON.parse(await readFile(given, "utf8")) : null;
const models = await Promise.all([a, b].map(async (path) => new Uint8Array(await readFile(path))));
console.log(JSON.stringify(await compare(ort, ...models, samples)));
