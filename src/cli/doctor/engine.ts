import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { messageOf } from '../../base/errors.ts';
import { float32Tensor, floatsOf } from '../../base/tensor.ts';
import type { Finding } from './finding.ts';

/**
 * Node.js itself.
 * @param required the range of package.json's `engines`, such as `>=20.19`
 */
export function checkNode(version: string, required: string): Finding {
  const name = 'Node.js';
  const found = `${version} (needed: ${required})`;
  if (isAtLeast(numbersOf(version), numbersOf(required))) return { name, status: 'ok', found };
  return { name, status: 'fail', found, advice: `Install Node.js ${required.replace('>=', '')} or newer.` };
}

const numbersOf = (text: string) => [...text.matchAll(/\d+/g)].map(Number);

function isAtLeast(version: readonly number[], least: readonly number[]): boolean {
  const at = least.findIndex((number, i) => number !== (version[i] ?? 0));
  return at === -1 || (version[at] ?? 0) > least[at]!;
}

/**
 * Whether ONNX Runtime loads and computes a sum that is known, and the block size it computes convolutions in. It is
 * loaded here and not before, so that a machine on which it does not load is told so.
 */
export async function checkEngine(): Promise<readonly Finding[]> {
  const name = 'ONNX Runtime';
  try {
    const { ENGINE_VERSION, Session } = await import('../../engine/session.ts');
    const session = await Session.create(await sumNetwork());
    try {
      const results = await session.run({ x: float32Tensor([3], [1, 2, 3]) });
      const answer = [...floatsOf(Object.values(results)[0]!)];
      if (answer.join() !== '2,4,6') throw new Error(`1+1, 2+2, 3+3 gave ${answer.join(', ')}`);
    } finally {
      await session.release();
    }
    return [{ name, status: 'ok', found: `${ENGINE_VERSION} loads and computes` }, await checkBlockSize()];
  } catch (thrown) {
    return [
      {
        name,
        status: 'fail',
        found: `does not work: ${messageOf(thrown).split('\n')[0]}`,
        advice:
          'Install it anew (npm install onnxruntime-node). It has builds for Linux (glibc, x86-64 and arm64), ' +
          'macOS on arm64 and Windows; for musl (Alpine) and 32-bit systems there is none.',
      },
    ];
  }
}

/** x + x. */
async function sumNetwork(): Promise<Uint8Array> {
  const { GraphBuilder, modelOf } = await import('../../graph/build.ts');
  const { writeModel } = await import('../../graph/onnx/write.ts');
  const build = new GraphBuilder('doctor');
  const x = build.input('x', 'float32', [3]);
  build.output(build.op('Add', [x, x]), 'float32');
  return writeModel(modelOf(build.finish()));
}

async function checkBlockSize(): Promise<Finding> {
  const name = 'block size';
  const { probeBlockSize } = await import('../../engine/probe-block.ts');
  const block = await probeBlockSize();
  const found =
    block === 1
      ? '1: this build of ONNX Runtime has no blocked layout'
      : `${block} channels at a time; pruning keeps multiples of that`;
  return { name, status: 'ok', found };
}

/** A PNG image of one grey pixel. */
const ONE_PIXEL = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAACXBIWXMAAAPoAAAD6AG1e1JrAAAADElEQVQImWNoaGgAAAMEAYEezv+mAAAAAElFTkSuQmCC',
  'base64',
);

/** Whether images can be decoded. Only folders of images need it. */
export async function checkImageDecoder(): Promise<Finding> {
  const name = 'image decoder';
  const folder = await mkdtemp(join(tmpdir(), 'bonsai-doctor-'));
  try {
    const file = join(folder, 'pixel.png');
    await writeFile(file, ONE_PIXEL);
    const { decodeImage } = await import('../../port/data/decode-image.ts');
    const pixels = await decodeImage(file, { size: 1, resize: 1 });
    return { name, status: 'ok', found: `sharp loads and decodes (${pixels.length} bytes of a pixel)` };
  } catch (thrown) {
    return {
      name,
      status: 'warn',
      found: messageOf(thrown),
      advice: 'Only data of the form images:PATH needs it; for that, run npm install sharp.',
    };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
