import { describe, expect, it } from 'vitest';
import { float32Tensor, floatsOf, int64Tensor, type Tensor } from '../base/tensor.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import { writeModel } from '../graph/onnx/write.ts';
import { PreparedSession } from './prepared-session.ts';
import { Session } from './session.ts';

/** y = 2 x + 1, z = x. */
function network(): Uint8Array {
  const b = new GraphBuilder('affine');
  const x = b.input('x', 'float32', ['N', 2]);
  const doubled = b.op('Mul', [x, b.scalar(2)]);
  b.output(b.op('Add', [doubled, b.scalar(1)], {}, { outputs: ['y'] }), 'float32', ['N', 2]);
  b.output(b.op('Identity', [x], {}, { outputs: ['z'] }), 'float32', ['N', 2]);
  return writeModel(modelOf(b.finish()));
}

/** y = x[i], of strings. */
function gather(): Uint8Array {
  const b = new GraphBuilder('gather');
  const x = b.input('x', 'string', ['N']);
  const y = b.op('Gather', [x, b.input('i', 'int64', ['M'])], {}, { outputs: ['y'] });
  b.output(y, 'string', ['M']);
  return writeModel(modelOf(b.finish()));
}

const strings = (...items: readonly (string | readonly number[])[]): Tensor => ({
  dtype: 'string',
  shape: [items.length],
  bytes: new Uint8Array(0),
  strings: items.map((item) => Buffer.from(item as string)), // Text or bytes: it takes either.
});

describe('strings of any bytes', () => {
  const textsOf = ([y]: readonly Tensor[]) => y!.strings!.map((item) => Buffer.from(item).toString());

  it('come through with their NULs, and beside inputs that are not strings', async () => {
    const session = await PreparedSession.create(gather(), {});
    const answer = await session.run([strings('plain', 'a\0b', '\0', 'hé\0'), int64Tensor([3, 1, 2, 0])]);
    expect(textsOf(answer)).toEqual(['hé\0', 'a\0b', '\0', 'plain']);
    expect(textsOf(await session.run([strings('plain', ''), int64Tensor([1, 0])]))).toEqual(['', 'plain']);
    await session.release();
  });

  it('need not be UTF-8 unless they come out again, which is refused rather than changed', async () => {
    const session = await PreparedSession.create(gather(), {});
    const x = strings([0xff, 0xfe, 0x41], 'plain');
    expect(textsOf(await session.run([x, int64Tensor([1])]))).toEqual(['plain']);
    await expect(session.run([x, int64Tensor([0])])).rejects.toMatchObject({ code: 'invalid_request' });
    await session.release();
  });
});

describe('a prepared session', () => {
  it('computes what the public session computes, and knows the same inputs and outputs', async () => {
    const [prepared, session] = [
      await PreparedSession.create(network(), {}),
      await Session.create(network(), {}),
    ];
    const names = (values: readonly { name: string }[]) => values.map(({ name }) => name);
    expect(names(prepared.inputs)).toEqual(session.inputNames);
    expect(names(prepared.outputs)).toEqual(session.outputNames);
    expect(prepared.inputs[0]!.type?.dtype).toBe('float32');
    const x = float32Tensor([1, 2], [3, 4]);
    const expected = await session.run({ x });
    const results = await prepared.run([x]);
    expect(results.map((tensor) => [...floatsOf(tensor)])).toEqual([
      [...floatsOf(expected.y!)],
      [...floatsOf(expected.z!)],
    ]);
  });

  it('reads prepared inputs anew at each run and gives new memory each time', async () => {
    const session = await PreparedSession.create(network(), {});
    const run = session.prepare([[2, 2]]);
    const answers: number[][] = [];
    for (const first of [1, 5]) {
      new Float32Array(run.inputs[0]!.buffer).set([first, 2, 3, 4]);
      answers.push([...floatsOf((await run.run())[0]!)]);
    }
    expect(answers).toEqual([
      [3, 5, 7, 9],
      [11, 5, 7, 9],
    ]);
  });

  it('tells why a run failed, and why a network cannot be loaded', async () => {
    const session = await PreparedSession.create(network(), {});
    await expect((async () => session.run([float32Tensor([1, 3], [1, 2, 3])]))()).rejects.toMatchObject({
      code: 'engine_failure',
    });
    await expect(PreparedSession.create(new Uint8Array([1, 2, 3]), {})).rejects.toMatchObject({
      code: 'load_failed',
    });
  });
});
