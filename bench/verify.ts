import { readdirSync, readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { readModel } from '../src/graph/onnx/read.ts';
import { maskEquivalence } from '../src/port/verify/mask-equivalence.ts';
import { foldConstants } from '../src/transform/passes/fold-constants.ts';
import { fillWeights } from '../src/transform/prune/networks.fixture.ts';

/**
 * The oracle on every shared graph and model: random channels of random groups removed, against the network in which
 * nothing reads them; largest relative error over all inputs. At most 1e-4 is asked for. Run where the shared files are:
 * npx tsc -p tsconfig.json --noEmit false --outDir dist/bench && node dist/bench/bench/verify.js [name…]
 */
const GROUPS = 20;
const INPUTS = 8;
const SEED = 1;
/**
 * The weights' own seed: with some, efficientnet_b0 is a chaotic function (seed 1: inputs changed by 1e-7 change outputs by
 * 2e-4), and then rounding alone exceeds any bar.
 */
const WEIGHTS_SEED = 2;
/** Sizes that a file leaves open. */
const SHAPES: Readonly<Record<string, Readonly<Record<string, readonly number[]>>>> = {
  'mobilenetv3-ppocr-cls.onnx': { x: [1, 3, 48, 192] },
};

const shared = process.env.BONSAI_SHARED ?? '../shared';
const wanted = process.argv.slice(2);
process.stdout.write(`${GROUPS} random groups × ${INPUTS} inputs, seed ${SEED}\n`);
for (const folder of ['models', 'graphs']) {
  for (const file of readdirSync(`${shared}/${folder}`).sort()) {
    if (!/\.onnx(\.gz)?$/.test(file)) continue;
    if (wanted.length > 0 && !wanted.some((name) => file.includes(name))) continue;
    const bytes = readFileSync(`${shared}/${folder}/${file}`);
    const model = foldConstants(
      fillWeights(readModel(file.endsWith('.gz') ? gunzipSync(bytes) : bytes), WEIGHTS_SEED),
    );
    const start = performance.now();
    const { maxRelativeError, skipped, isSensitive } = await maskEquivalence(model, {
      seed: SEED,
      groups: GROUPS,
      inputs: INPUTS,
      shapes: SHAPES[file],
      intraOpThreads: 2,
    });
    const seconds = ((performance.now() - start) / 1000).toFixed(1);
    const doubt = isSensitive ? '' : '  (no removal changes an output: says nothing)';
    process.stdout.write(
      `${file.padEnd(40)} ${maxRelativeError.toExponential(1)}  ${skipped} groups not comparable  ${seconds} s${doubt}\n`,
    );
  }
}
