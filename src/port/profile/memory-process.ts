import { readFileSync, writeFileSync } from 'node:fs';
import { BonsaiError, messageOf } from '../../base/errors.ts';
import { seededRandom } from '../../base/random.ts';
import { Session } from '../../engine/session.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import type { MemoryAnswer, MemoryOrder } from './memory.ts';
import { seededInput } from './seeded-input.ts';

/** The process that `profileMemory` starts: measures one network once. */
process.once('message', (order: MemoryOrder) => {
  measure(order).then(
    (peakBytes) => process.send?.({ kind: 'done', peakBytes } satisfies MemoryAnswer),
    (thrown: unknown) => {
      const code = thrown instanceof BonsaiError ? thrown.code : 'engine_failure';
      process.send?.({ kind: 'failed', code, message: messageOf(thrown) } satisfies MemoryAnswer);
    },
  );
});

async function measure({ path, runs, seed }: MemoryOrder): Promise<number> {
  await runOnce(smallestNetwork(), 1, seed);
  globalThis.gc?.();
  resetPeak();
  const beforeBytes = process.memoryUsage.rss();
  await runOnce(readFileSync(path), runs, seed);
  return Math.max(0, peakBytes() - beforeBytes);
}

async function runOnce(model: Uint8Array, runs: number, seed: number): Promise<void> {
  const session = await Session.create(model, { intraOpThreads: 1 });
  const random = seededRandom(seed);
  const feeds = Object.fromEntries(session.inputs.map((info) => [info.name, seededInput(info, random)]));
  for (let run = 0; run < runs; run++) await session.run(feeds);
  await session.release();
}

/** Makes the engine take what it needs for any network. */
function smallestNetwork(): Uint8Array {
  const build = new GraphBuilder('smallest');
  build.output(build.op('Relu', [build.input('x', 'float32', [1])]), 'float32', [1]);
  return writeModel(modelOf(build.finish()));
}

/** Linux: the peak of resident memory starts anew from here. Source: proc(5), /proc/pid/clear_refs, value 5. */
function resetPeak(): void {
  try {
    writeFileSync('/proc/self/clear_refs', '5');
  } catch {
    // Elsewhere the peak is that of the whole process, whose start is far smaller than any network of interest.
  }
}

function peakBytes(): number {
  try {
    const kibibytes = /^VmHWM:\s*(\d+) kB/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
    if (kibibytes !== undefined) return Number(kibibytes) * 1024;
  } catch {
    // Not Linux.
  }
  return process.resourceUsage().maxRSS * 1024;
}
