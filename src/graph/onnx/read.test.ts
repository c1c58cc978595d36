import { execFileSync, spawn } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import { create, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { BonsaiError } from '../../base/errors.ts';
import { float32Tensor, floatsOf } from '../../base/tensor.ts';
import { GraphBuilder, modelOf } from '../build.ts';
import { checkModel } from '../check.ts';
import { CorruptModelError } from '../errors.ts';
import { printModel } from '../print.ts';
import { type GraphProtoSchema, ModelProtoSchema } from './onnx_pb.ts';
import { readModel, readModelFile } from './read.ts';
import { writeModel, writeModelFile } from './write.ts';

const folder = mkdtempSync(path.join(tmpdir(), 'bonsai-onnx-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

type GraphInit = MessageInitShape<typeof GraphProtoSchema>;
type TensorInit = NonNullable<GraphInit['initializer']>[number];

function smallModel() {
  const b = new GraphBuilder('main');
  const x = b.input('image', 'float32', ['N', 2, 4, 4]);
  const w = b.initializer('w', float32Tensor([3, 2, 1, 1], [1, 2, 3, 4, 5, 6]));
  const y = b.op('Relu', [b.op('Conv', [x, w], { kernel_shape: [1, 1], pads: [0, 0, 0, 0] })]);
  b.output(y, 'float32', ['N', 3, 4, 4]);
  return modelOf(b.finish(), { metadata: { 'bonsai.task': 'test' } });
}

function bytesOf(graph: GraphInit, opset = 17n, irVersion = 8n): Uint8Array {
  return toBinary(
    ModelProtoSchema,
    create(ModelProtoSchema, { irVersion, opsetImport: [{ version: opset }], graph }),
  );
}

function withTensor(tensor: TensorInit): Uint8Array {
  return bytesOf({ name: 'g', initializer: [{ name: 'w', ...tensor }] });
}

function varint(value: number): number[] {
  return value < 128 ? [value] : [(value % 128) | 128, ...varint(Math.floor(value / 128))];
}

function delimited(field: number, payload: Uint8Array): Uint8Array {
  return Uint8Array.from([...varint(field * 8 + 2), ...varint(payload.length), ...payload]);
}

describe('readModel', () => {
  const good = writeModel(smallModel());

  it('gives back the model that writeModel was given', () => {
    const { opaque: _, ...model } = readModel(good);
    expect(printModel(model)).toBe(printModel(smallModel()));
    expect(floatsOf(model.graph.initializers.get('w')!)).toEqual(Float32Array.of(1, 2, 3, 4, 5, 6));
  });

  it('keeps the weights usable when it is given a Buffer at an odd address', () => {
    for (let shift = 0; shift < 4; shift++) {
      const room = Buffer.alloc(good.length + shift);
      room.set(good, shift);
      const model = readModel(room.subarray(shift));
      expect([...floatsOf(model.graph.initializers.get('w')!)]).toEqual([1, 2, 3, 4, 5, 6]);
    }
  });

  it.each([
    ['no bytes', new Uint8Array(0), /model\.onnx: the file is empty/],
    ['text', new TextEncoder().encode('<!doctype html><title>404</title>'), /model\.onnx, byte \d+/],
    [
      'a length of 2^63',
      Uint8Array.of(0x3a, 255, 255, 255, 255, 255, 255, 255, 255, 127),
      /byte 0.*announces 9\d+ bytes where 0 are left/,
    ],
    ['a number without end', new Uint8Array(20).fill(255), /longer than 10 bytes/],
    ['a wrong wire type', Uint8Array.of(0x3d, 0, 0, 0, 0), /field ModelProto\.graph has wire type 5/],
    ['a group', Uint8Array.of(0xfb, 0x7f), /wire type 3/],
    [
      'a nested field beyond its message',
      Uint8Array.of(0x3a, 3, 0x12, 9, 0x61),
      /byte 2 \(in graph\).*announces 9 bytes where 1 are left/,
    ],
    [
      'half a packed float',
      delimited(7, delimited(5, delimited(4, new Uint8Array(3)))),
      /in graph\.initializer.*float_data end inside/,
    ],
    [
      'no graph',
      toBinary(
        ModelProtoSchema,
        create(ModelProtoSchema, { irVersion: 8n, opsetImport: [{ version: 17n }] }),
      ),
      /no graph/,
    ],
    ['no IR version', toBinary(ModelProtoSchema, create(ModelProtoSchema, { graph: {} })), /IR version is 0/],
    [
      'no opset',
      toBinary(ModelProtoSchema, create(ModelProtoSchema, { irVersion: 8n, graph: {} })),
      /imports no operator set/,
    ],
    ['opset 0', bytesOf({}, 0n), /version 0 of the operator set "ai.onnx"/],
    [
      'a negative size',
      withTensor({ dims: [-3n], dataType: 1 }),
      /initializer "w": the shape \[-3\] has a negative size/,
    ],
    [
      'too few bytes',
      withTensor({ dims: [3n], dataType: 1, rawData: new Uint8Array(8) }),
      /"w": the shape \[3\] needs 12 bytes of float32, the file has 8/,
    ],
    [
      'too few elements',
      withTensor({ dims: [3n], dataType: 7, int64Data: [1n] }),
      /needs 24 bytes of int64, the file has 8/,
    ],
    ['too few strings', withTensor({ dims: [3n], dataType: 8 }), /needs 3 strings/],
    [
      'a size beyond all memory',
      withTensor({ dims: [2n ** 40n, 2n ** 40n], dataType: 1 }),
      /too many elements/,
    ],
    ['an unknown type', withTensor({ dims: [], dataType: 99 }), /99 is no type/],
    ['a nameless initializer', withTensor({ name: '', dims: [0n], dataType: 1 }), /no name/],
    [
      'two initializers of one name',
      bytesOf({ initializer: [1, 2].map(() => ({ name: 'w', dims: [0n], dataType: 1 })) }),
      /"w": the name is taken/,
    ],
    ['a node without operator', bytesOf({ node: [{ name: 'n' }] }), /node 0 .*names no operator/],
    [
      'an attribute without its tensor',
      bytesOf({ node: [{ opType: 'Constant', output: ['c'], attribute: [{ name: 'value', type: 4 }] }] }),
      /Constant "c"\), attribute "value": the tensor is missing/,
    ],
    [
      'an attribute twice',
      bytesOf({
        node: [
          {
            opType: 'A',
            attribute: [
              { name: 'a', type: 2 },
              { name: 'a', type: 2 },
            ],
          },
        ],
      }),
      /attribute "a": the attribute is given twice/,
    ],
  ])('says where and what is wrong in a file of %s', (_, bytes, message) => {
    const error = thrownBy(() => readModel(bytes, { source: 'model.onnx' }));
    expect(error).toBeInstanceOf(CorruptModelError);
    expect(error.message).toMatch(message);
    expect(error.message).toContain('model.onnx');
  });

  it.each([
    ['opset 6', bytesOf({}, 6n), /operator set 6 is not supported; 7 to 22 are/],
    ['opset 25', bytesOf({}, 25n), /operator set 25 is not supported/],
    ['IR version 2', bytesOf({}, 17n, 2n), /IR version 2 is not supported; 3 to 13 are/],
    ['segments', withTensor({ dims: [0n], dataType: 1, segment: { begin: 0n } }), /segments/],
  ])('names what is supported for %s', (_, bytes, message) => {
    const error = thrownBy(() => readModel(bytes));
    expect(error.code).toBe('unsupported');
    expect(error.message).toMatch(message);
  });

  it('refuses subgraphs nested without end, and reads those that engines read', () => {
    const nested = (levels: number) => {
      let graph = new Uint8Array(0);
      // graph > node (1) > attribute (5) > graph (6); the node also needs an operator (4) and the attribute a type (20).
      for (let i = 0; i < levels; i++) {
        const attribute = Uint8Array.from([...delimited(6, graph), 0xa0, 0x01, 5]);
        graph = delimited(1, Uint8Array.from([0x22, 1, 0x61, ...delimited(5, attribute)])) as typeof graph;
      }
      return Uint8Array.from([0x08, 8, 0x42, 2, 0x10, 17, ...delimited(7, graph)]);
    };
    expect(readModel(nested(30)).graph.nodes).toHaveLength(1);
    expect(thrownBy(() => readModel(nested(200))).message).toMatch(/nested more than 100 levels/);
  });

  it('answers any damage with a BonsaiError or a model that can be written again', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { maxLength: 4 }),
        fc.nat(good.length),
        fc.boolean(),
        (edits, length, cut) => {
          const bytes = good.slice(0, cut ? length : good.length);
          for (const [position, value] of edits) if (position < bytes.length) bytes[position] = value;
          survives(() => {
            const model = readModel(bytes);
            checkModel(model);
            printModel(model);
            writeModel(model);
          });
        },
      ),
      { seed: 1, numRuns: 4000 },
    );
  });

  it('answers random bytes with a BonsaiError', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => survives(() => readModel(bytes))),
      { seed: 2, numRuns: 3000 },
    );
  });

  it('notices every truncation of the weights', () => {
    // The graph is the last field of a written file, hence any cut inside it is seen.
    for (let length = good.length - 40; length < good.length; length++) {
      expect(thrownBy(() => readModel(good.slice(0, length))).code).toBe('corrupt_model');
    }
  });
});

describe('external data', () => {
  const weights = new Uint8Array(Float32Array.of(9, 8, 7, 6).buffer);
  const external = (entries: Record<string, string>, dims = [2n]) =>
    withTensor({
      dims,
      dataType: 1,
      dataLocation: 1,
      externalData: Object.entries(entries).map(([key, value]) => ({ key, value })),
    });
  const readAt = (entries: Record<string, string>, dims?: bigint[]) => {
    const file = path.join(folder, 'deep', 'model.onnx');
    mkdirSync(path.dirname(file), { recursive: true });
    writeFileSync(file, external(entries, dims));
    writeFileSync(path.join(folder, 'deep', 'weights.bin'), weights);
    writeFileSync(path.join(folder, 'outside.bin'), weights);
    return readModelFile(file);
  };

  it('is read from beside the model and written into it', async () => {
    const model = await readAt({ location: 'weights.bin', offset: '4', length: '8', checksum: 'x' });
    expect([...floatsOf(model.graph.initializers.get('w')!)]).toEqual([8, 7]);
    const alone = readModel(writeModel(model));
    expect([...floatsOf(alone.graph.initializers.get('w')!)]).toEqual([8, 7]);
  });

  it('reaches to the end of its file where no length is given', async () => {
    const model = await readAt({ location: './weights.bin' }, [4n]);
    expect([...floatsOf(model.graph.initializers.get('w')!)]).toEqual([9, 8, 7, 6]);
  });

  it('is also brought into what Bonsai only carries along', () => {
    const tensor = {
      name: 'v',
      dims: [4n],
      dataType: 1,
      dataLocation: 1,
      externalData: [{ key: 'location', value: 'f' }],
    };
    const sparse = {
      values: tensor,
      indices: { name: 'j', dims: [4n], dataType: 7, int64Data: [0n, 1n, 2n, 3n] },
      dims: [9n],
    };
    const attribute = { name: 'a', type: 4, t: tensor };
    const inner = { name: 'inner', initializer: [tensor], node: [{ opType: 'C', attribute: [attribute] }] };
    const proto = create(ModelProtoSchema, {
      irVersion: 8n,
      opsetImport: [{ version: 17n }],
      graph: {
        sparseInitializer: [sparse],
        node: [{ opType: 'O', attribute: [{ name: 's', type: 11, sparseTensor: sparse }] }],
      },
      trainingInfo: [{ algorithm: inner }],
      functions: [{ name: 'F', node: [{ opType: 'G', attribute: [{ name: 'g', type: 5, g: inner }] }] }],
    });
    const written = writeModel(readModel(toBinary(ModelProtoSchema, proto), { readExternal: () => weights }));
    expect(readModel(written).graph.nodes).toHaveLength(1); // Would ask for the file otherwise.
  });

  it.each([
    [{ location: '../outside.bin' }, 'corrupt_model', /outside the model's folder/],
    [{ location: path.join(folder, 'outside.bin') }, 'corrupt_model', /outside the model's folder/],
    [
      { location: 'weights.bin', offset: '12' },
      'corrupt_model',
      /"w": the shape \[2\] needs 8 bytes of float32, the file has 4/,
    ],
    [
      { location: 'weights.bin', offset: '12', length: '8' },
      'corrupt_model',
      /bytes 12 to 20 of "weights\.bin" are needed, it has 16/,
    ],
    [
      { location: 'weights.bin', offset: '99999999999999999' },
      'corrupt_model',
      /offset "9+" of external data is no count/,
    ],
    [{ location: 'weights.bin', length: '-8' }, 'corrupt_model', /length "-8"/],
    [{ offset: '0' }, 'corrupt_model', /without a location/],
    [{ location: 'absent.bin' }, 'missing_file', /absent\.bin/],
    [{ location: '.' }, 'corrupt_model', /outside/],
  ])('at %j is refused', async (entries, code, message) => {
    const error = await readAt(entries as Record<string, string>).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code, message: expect.stringMatching(message) });
  });

  it('is not followed through a link that leaves the folder', async () => {
    mkdirSync(path.join(folder, 'deep'), { recursive: true });
    writeFileSync(path.join(folder, 'outside.bin'), weights);
    symlinkSync(path.join(folder, 'outside.bin'), path.join(folder, 'deep', 'link.bin'));
    await expect(readAt({ location: 'link.bin' })).rejects.toThrow(
      /outside the model's folder: it is a link that leads there, so put the file itself/,
    );
  });

  it('without its file asks for the file', () => {
    expect(thrownBy(() => readModel(external({ location: 'weights.bin' }))).code).toBe('missing_file');
  });
});

describe('files of models', () => {
  it('are written whole and read again', async () => {
    const file = path.join(folder, 'written.onnx');
    await writeModelFile(smallModel(), file);
    await writeModelFile(smallModel(), file);
    expect(printModel(await readModelFile(file))).toBe(printModel(smallModel()));
    expect(Buffer.compare(readFileSync(file), writeModel(smallModel()))).toBe(0);
    expect(readdirSync(folder).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  });

  it('in missing folders, and under names of folders, are unwritable; nothing is left behind', async () => {
    await expect(writeModelFile(smallModel(), path.join(folder, 'no', 'such.onnx'))).rejects.toMatchObject({
      code: 'unwritable_path',
    });
    mkdirSync(path.join(folder, 'a-folder', 'full'), { recursive: true });
    await expect(writeModelFile(smallModel(), path.join(folder, 'a-folder'))).rejects.toMatchObject({
      code: 'unwritable_path',
    });
    expect(readdirSync(folder).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  });

  it('that a device or a pipe does not take say what fits: space, or a reader', async () => {
    if (process.platform !== 'linux') return;
    await expect(writeModelFile(smallModel(), '/dev/full')).rejects.toThrow(/ENOSPC.*Free some space/);
    const pipe = path.join(folder, 'pipe');
    execFileSync('mkfifo', [pipe]);
    const large = { ...smallModel(), metadata: new Map([['filling', 'x'.repeat(2 ** 20)]]) };
    // The reader opens the pipe, takes ten bytes, and goes.
    const reader = spawn('head', ['-c', '10', pipe], { stdio: 'ignore' });
    const gone = new Promise((resolve) => reader.once('exit', resolve));
    await expect(writeModelFile(large, pipe)).rejects.toThrow(/EPIPE.*closed it before the end/);
    await gone;
  });

  it('that are compressed are to be unpacked first', async () => {
    const file = path.join(folder, 'small.onnx.gz');
    writeFileSync(file, gzipSync(writeModel(smallModel())));
    await expect(readModelFile(file)).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringMatching(/small\.onnx\.gz is compressed with gzip.*gunzip/),
    });
  });

  it('that are missing are named', async () => {
    const file = path.join(folder, 'absent.onnx');
    await expect(readModelFile(file)).rejects.toMatchObject({
      code: 'missing_file',
      message: expect.stringContaining(file),
    });
  });
});

describe('writeModel', () => {
  it('refuses tensors whose bytes do not fit their shape', () => {
    const model = smallModel();
    const initializers = new Map(model.graph.initializers).set('w', {
      dtype: 'float32',
      shape: [3],
      bytes: new Uint8Array(8),
    });
    const error = thrownBy(() => writeModel({ ...model, graph: { ...model.graph, initializers } }));
    expect(error).toMatchObject({
      code: 'invalid_graph',
      message: expect.stringContaining('"w" of float32 [3] holds 8 bytes'),
    });
  });

  it('refuses numbers that ONNX cannot hold', () => {
    const model = smallModel();
    const attributes = new Map([['alpha', { kind: 'float' as const, value: 1e300 }]]);
    const nodes = model.graph.nodes.map((node) => ({ ...node, attributes }));
    expect(thrownBy(() => writeModel({ ...model, graph: { ...model.graph, nodes } })).code).toBe(
      'invalid_graph',
    );
  });

  it('refuses models beyond 2 GB before it takes the memory', () => {
    const model = smallModel();
    const giga = { dtype: 'uint8' as const, shape: [2 ** 30], bytes: new Uint8Array(2 ** 30) }; // Zeros that are never touched.
    const initializers = new Map([
      ['a', giga],
      ['b', giga],
    ]);
    const error = thrownBy(() => writeModel({ ...model, graph: { ...model.graph, initializers } }));
    expect(error).toMatchObject({ code: 'unsupported', message: expect.stringContaining('2147483647') });
  });
});

function thrownBy(action: () => unknown): BonsaiError {
  try {
    action();
  } catch (thrown) {
    if (thrown instanceof BonsaiError) return thrown;
    throw thrown;
  }
  throw new Error('Nothing was thrown.');
}

/** Fails for anything thrown that is not a BonsaiError. */
function survives(action: () => void): void {
  try {
    action();
  } catch (thrown) {
    if (!(thrown instanceof BonsaiError)) throw thrown;
  }
}
