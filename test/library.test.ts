import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BonsaiError } from '../src/base/errors.ts';
import { floatsOf } from '../src/base/tensor.ts';
import { readModelFile } from '../src/graph/onnx/read.ts';
import { writeModelFile } from '../src/graph/onnx/write.ts';
import { countParameters } from '../src/ops/count.ts';
import { randomNetwork } from '../src/transform/prune/networks.fixture.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const examplesOf = (document: string) =>
  [...readFileSync(join(root, document), 'utf8').matchAll(/^```js\n(.*?)^```/gms)].map((match) => match[1]!);
const examples = examplesOf('docs/prune.md');
const network = randomNetwork(['residual', 'conv'], 'gap', 3);

// A project that depends on the package, as a user's does: only what package.json exports can be imported.
let project: string;
beforeAll(async () => {
  project = mkdtempSync(join(tmpdir(), 'bonsai-library-'));
  await mkdir(join(project, 'node_modules'));
  symlinkSync(root, join(project, 'node_modules', 'bonsai'), 'junction');
  await writeModelFile(network, join(project, 'network.onnx'));
});
afterAll(() => rmSync(project, { recursive: true }));

function run(source: string): string {
  const file = join(project, 'example.mjs');
  writeFileSync(file, source);
  return execFileSync(process.execPath, [file], { cwd: project, encoding: 'utf8' });
}

describe('the library', () => {
  it('does what the first example of docs/prune.md says', async () => {
    const output = run(examples[0]!);
    const smaller = await readModelFile(join(project, 'smaller.onnx'));
    expect(output).toMatch(/^\d+ channels of conv, conv_2$/m);
    expect(output).toContain(`${countParameters(network)} → ${countParameters(smaller)} parameters`);
  });

  it('takes a criterion of its user, as in the second', async () => {
    run(examples[1]!);
    const pruned = await readModelFile(join(project, 'first.onnx'));
    const kernel = (model: typeof pruned) => [...model.graph.initializers.values()][0]!;
    const { bytes, shape } = kernel(pruned);
    expect(shape[0]).toBeLessThan(kernel(network).shape[0]!);
    // The first channels stay: what is left of the first kernel is its beginning.
    expect(bytes).toEqual(kernel(network).bytes.subarray(0, bytes.length));
  });

  it('trains by steps of its own, as docs/train.md shows', async () => {
    expect(run(examplesOf('docs/train.md')[0]!).trim()).toBe('3.00 -2.00 1.00');
    const line = await readModelFile(join(project, 'line.onnx'));
    const [w] = line.graph.initializers.values();
    expect(floatsOf(w!)[0]).toBeCloseTo(3, 2);
  });

  it('exports its names, and nothing of its inside', () => {
    const names = run(`
      import * as bonsai from 'bonsai';
      const inside = await import('bonsai/dist/base/errors.js').catch((error) => error.code);
      console.log(JSON.stringify([Object.keys(bonsai), inside]));
    `);
    const [exported, inside] = JSON.parse(names);
    expect(exported).toEqual(
      expect.arrayContaining(['readModel', 'inspect', 'dependencyGroups', 'prune', 'pruneToGoal', 'verify']),
    );
    expect(exported).toContain(BonsaiError.name);
    expect(inside).toBe('ERR_PACKAGE_PATH_NOT_EXPORTED');
  });

  it('leaves no record of the networks that it loads for the maker of ONNX Runtime', () => {
    const source = `import { readFileSync } from 'node:fs';
      import { Session } from 'bonsai';
      await (await Session.create(readFileSync('network.onnx'))).release();`;
    const file = join(project, 'load.mjs');
    writeFileSync(file, source);
    const home = mkdtempSync(join(project, 'home-'));
    // Where the variable CI is set, ONNX Runtime records nothing anyway.
    const { CI: _, ORT_DISABLE_TELEMETRY: __, XDG_CACHE_HOME: ___, ...env } = process.env;
    execFileSync(process.execPath, [file], { cwd: project, env: { ...env, HOME: home } });
    expect(readdirSync(home, { recursive: true })).toEqual([]);
  });
});
