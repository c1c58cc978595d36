// A data module of one's own: bonsai train --data ./examples/stripes-data.mjs --out stripes.onnx
// It gives images of 1×8×8 with stripes that lie or stand. What `load` gives is described in docs/data.md.

const SIZE = 8;
const COUNTS = { train: 200, validation: 40, test: 40 };

export const name = 'stripes';

/** Same seed, same data: draw from `seed` alone, never from Math.random. */
export async function load({ seed, signal }) {
  const random = generator(seed);
  const splits = {};
  for (const [part, count] of Object.entries(COUNTS)) {
    signal?.throwIfAborted();
    splits[part] = stripes(count, random);
  }
  return { name, classes: ['lying', 'standing'], shape: [1, SIZE, SIZE], ...splits };
}

function stripes(count, random) {
  const images = new Uint8Array(count * SIZE * SIZE);
  const labels = new Uint8Array(count);
  for (let n = 0; n < count; n++) {
    labels[n] = n % 2;
    const phase = random() < 0.5 ? 0 : 1;
    for (let i = 0; i < SIZE * SIZE; i++) {
      const along = labels[n] === 0 ? Math.floor(i / SIZE) : i % SIZE;
      const bright = (along + phase) % 2 === 0 ? 170 : 60;
      images[n * SIZE * SIZE + i] = bright + Math.floor(80 * random()) - 40;
    }
  }
  return { count, images, labels };
}

/** Numbers in [0, 1) from a seed (mulberry32). */
function generator(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let bits = Math.imul(state ^ (state >>> 15), 1 | state);
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits;
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
}
