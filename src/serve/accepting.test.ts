import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { float32Tensor } from '../base/tensor.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import { writeModel } from '../graph/onnx/write.ts';
import { DataPlane } from './data-plane.ts';
import { DEFAULT_LIMITS } from './limits.ts';
import { start } from './server.fixture.ts';

it('lets connections in before it computes, one in each turn of the event loop, for a bounded time', async () => {
  const root = await mkdtemp(join(tmpdir(), 'bonsai-accepting-'));
  const b = new GraphBuilder('doubler');
  const x = b.input('x', 'float32', ['N', 1]);
  b.output(b.op('Add', [x, x], {}, { outputs: ['y'] }), 'float32', ['N', 1]);
  await mkdir(join(root, 'double', '1'), { recursive: true });
  await writeFile(join(root, 'double', '1', 'model.onnx'), writeModel(modelOf(b.finish())));
  const server = await start(root, { slots: 1, inlineBelowMs: 1000 });
  try {
    let nowMs = 1000;
    const clock = { nowMs: () => nowMs, epochMs: () => nowMs };
    const plane = new DataPlane({ slots: 1, limits: DEFAULT_LIMITS, clock });
    let answered = 0;
    const ask = () => {
      const submission = plane.submit({
        model: server.models.get('double'),
        inputs: [{ name: 'x', ...float32Tensor([1, 1], [1]) }],
      });
      return submission.answer.then(() => answered++);
    };
    const turn = async (connection: boolean) => {
      if (connection) plane.noteConnection();
      await setImmediate();
      await Promise.resolve();
    };
    const first = ask();
    for (let i = 0; i < 20; i++) await turn(true);
    expect(answered).toBe(0);
    await turn(false);
    await first;
    expect(answered).toBe(1);

    // Connections that never end do not keep requests waiting.
    const second = ask();
    for (let i = 0; i < 20; i++) {
      nowMs += 1;
      await turn(true);
    }
    await second;
    expect(answered).toBe(2);
  } finally {
    await server.close();
    await rm(root, { recursive: true, force: true });
  }
});
