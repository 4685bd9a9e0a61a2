// Two models on the same inputs: time of a run, and how far the outputs agree. For node and for browsers.

const ARRAYS = { float32: Float32Array, int32: Int32Array, int64: BigInt64Array, uint8: Uint8Array };

// Inputs of a model: axes of open size get 1, numbers are from 0 to 1, integers are 0.
function randomFeeds(ort, session) {
  const feeds = {};
  for (const input of session.inputMetadata) {
    const dims = input.shape.map((size) => (typeof size === "number" && size > 0 ? size : 1));
    const count = dims.reduce((a, b) => a * b, 1);
    const make = ARRAYS[input.type];
    if (!make) throw new Error(`input ${input.name} is of type ${input.type}, which this page does not make`);
    const data = new make(count);
    if (input.type === "float32") for (let i = 0; i < count; i++) data[i] = Math.random();
    feeds[input.name] = new ort.Tensor(input.type, data, dims);
  }
  return feeds;
}

// Feeds of a sample as samples.py writes it: {name: {dims, data}}, numbers alone.
function feedsOf(ort, sample) {
  const tensor = ({ dims, data }) => new ort.Tensor("float32", Float32Array.from(data), dims);
  return Object.fromEntries(Object.entries(sample).map(([name, value]) => [name, tensor(value)]));
}

// The index of the largest number.
const top = (data) => data.reduce((best, value, i) => (value > data[best] ? i : best), 0);

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

// `a`, `b`: bytes of the original and of the pruned model. `samples` of samples.py; without, 20 random inputs. Times are medians in ms; the models take turns.
// `agree` counts inputs with the same largest output, `difference` is the largest, relative to the largest output.
export async function compare(ort, a, b, samples = null) {
  const runs = samples ? samples.length : 20;
  ort.env.wasm.numThreads = 1; // more need a page that is isolated from other origins
  const sessions = [];
  for (const bytes of [a, b]) sessions.push(await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] }));
  const output = sessions[0].outputNames[0];
  const times = [[], []];
  let agree = 0;
  let difference = 0;
  for (let run = 0; run < runs; run++) {
    const feeds = samples ? feedsOf(ort, samples[run]) : randomFeeds(ort, sessions[0]);
    const found = [];
    for (const [i, session] of sessions.entries()) {
      const start = performance.now();
      found.push((await session.run(feeds))[output].data);
      times[i].push(performance.now() - start);
    }
    const [x, y] = found;
    const scale = x.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-12);
    x.forEach((value, i) => (difference = Math.max(difference, Math.abs(value - y[i]) / scale)));
    agree += top(x) === top(y) ? 1 : 0;
  }
  return { ms: times.map(median), bytes: [a.length, b.length], runs, agree, difference };
}
