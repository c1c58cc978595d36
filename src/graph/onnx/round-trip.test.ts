import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { gunzipSync } from 'node:zlib';
import {
  clearField,
  clone,
  create,
  type DescMessage,
  fromBinary,
  type MessageShape,
  toBinary,
} from '@bufbuild/protobuf';
import { describe, expect, it } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import { float32Tensor, type Tensor } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { checkModel } from '../check.ts';
import { printModel } from '../print.ts';
import { codeOfDtype } from './codes.ts';
import { freezeInitializers } from './freeze.ts';
import {
  type AttributeProto,
  type GraphProto,
  GraphProtoSchema,
  type ModelProto,
  ModelProtoSchema,
  NodeProtoSchema,
  type TensorProto,
  TensorProtoSchema,
  type ValueInfoProto,
} from './onnx_pb.ts';
import { readModel } from './read.ts';
import { toTensor } from './tensor-data.ts';
import { writeModel } from './write.ts';

const shared = process.env.BONSAI_SHARED ?? '../shared';

/** Larger files repeat what the smaller ones show: the same exporter and operators, more zeros. */
const LARGEST_TEST_BYTES = 30_000_000;

const files = ['models', 'graphs'].flatMap((folder) => {
  const directory = path.join(shared, folder);
  if (!existsSync(directory)) return [];
  return readdirSync(directory)
    .filter((name) => /\.onnx(\.gz)?$/.test(name))
    .map((name) => path.join(directory, name))
    .filter((file) => unpackedBytes(file) <= LARGEST_TEST_BYTES);
});

/** The size of a file's content, which gzip keeps in the last four bytes. */
function unpackedBytes(file: string): number {
  const stored = readFileSync(file);
  return file.endsWith('.gz') ? stored.readUInt32LE(stored.length - 4) : stored.length;
}

function contentOf(file: string): Uint8Array {
  const stored = readFileSync(file);
  return file.endsWith('.gz') ? gunzipSync(stored) : stored;
}

describe('a round trip', () => {
  it.skipIf(files.length === 0).each(files)('keeps all that is in %s', (file) => {
    const bytes = contentOf(file);
    const model = readModel(bytes, { source: file });
    checkModel(model);
    const written = writeModel(model);
    const again = readModel(written);
    expect(printModel(again)).toBe(printModel(model));
    expect([...again.graph.initializers.keys()]).toEqual([...model.graph.initializers.keys()]);
    for (const [name, tensor] of model.graph.initializers) {
      const other = again.graph.initializers.get(name)!;
      expect(Buffer.compare(other.bytes, tensor.bytes), name).toBe(0);
    }
    expect(loss(bytes, written)).toEqual([]);
    expect(Buffer.compare(writeModel(again), written)).toBe(0);
  });

  it('keeps functions, training, sparse tensors, types, doc strings and unknown fields', () => {
    const bytes = toBinary(ModelProtoSchema, richModel());
    const model = readModel(bytes);
    checkModel(model);
    expect(loss(bytes, writeModel(model))).toEqual([]);
    expect(model.opaque).toBeDefined();
  });

  it('keeps the inputs of an IR 3 file, which lists its initialisers there', () => {
    const proto = richModel();
    proto.irVersion = 3n;
    const model = readModel(toBinary(ModelProtoSchema, proto));
    expect(model.graph.inputs.map((info) => info.name)).toEqual(['x']);
    const written = fromBinary(ModelProtoSchema, writeModel(model));
    expect(written.graph?.input.map((info) => info.name)).toEqual(['x', 'w', 'named', 'texts']);
    expect(written.graph?.input[1]?.docString).toBe('a default');
    const newer = fromBinary(ModelProtoSchema, writeModel({ ...model, irVersion: 8 }));
    expect(newer.graph?.input.map((info) => info.name)).toEqual(['x', 'w']);
    const frozen = fromBinary(
      ModelProtoSchema,
      writeModel({ ...model, irVersion: 8, graph: freezeInitializers(model.graph) }),
    );
    expect(frozen.graph?.input.map((info) => info.name)).toEqual(['x']);
    expect(frozen.graph?.metadataProps).toHaveLength(1);
  });

  it('takes the shape of a listed initialiser from the tensor, which an edit may have changed', () => {
    const model = readModel(toBinary(ModelProtoSchema, richModel()));
    const initializers = new Map(model.graph.initializers).set('w', float32Tensor([1], [5]));
    const written = fromBinary(
      ModelProtoSchema,
      writeModel({ ...model, graph: { ...model.graph, initializers } }),
    );
    const type = written.graph?.input.find((info) => info.name === 'w')?.type?.value;
    expect(type?.case === 'tensorType' && type.value.shape?.dim[0]?.value.value).toBe(1n);
  });

  it('shares the weights with the bytes read', () => {
    const bytes = toBinary(ModelProtoSchema, richModel());
    expect(readModel(bytes).graph.initializers.get('w')?.bytes.buffer).toBe(bytes.buffer);
  });

  it.skipIf(files.length === 0).each(['mnist-8-cntk.onnx', 'squeezenet-cifar10-tf2onnx.onnx'])(
    'leaves the answers of %s as they are',
    async (name) => {
      const bytes = readFileSync(path.join(shared, 'models', name));
      const answers = await Promise.all([answersOf(bytes), answersOf(writeModel(readModel(bytes)))]);
      expect(answers[1]).toEqual(answers[0]);
    },
  );
});

describe('elements of tensors', () => {
  /** Each way in which ONNX stores elements, beside the little-endian bytes that it means. */
  const cases: readonly [dtype: Tensor['dtype'], dims: number[], data: object, bytes: number[]][] = [
    ['float32', [2], { floatData: [1, -2] }, [0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]],
    ['complex64', [1], { floatData: [1, -2] }, [0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]],
    ['float64', [1], { doubleData: [1] }, [0, 0, 0, 0, 0, 0, 0xf0, 0x3f]],
    ['int32', [1], { int32Data: [-2] }, [0xfe, 0xff, 0xff, 0xff]],
    ['int16', [1], { int32Data: [-2] }, [0xfe, 0xff]],
    ['uint16', [1], { int32Data: [65534] }, [0xfe, 0xff]],
    ['float16', [1], { int32Data: [0x3c00] }, [0, 0x3c]],
    ['bfloat16', [1], { int32Data: [0x3f80] }, [0x80, 0x3f]],
    ['int8', [2], { int32Data: [-1, 2] }, [255, 2]],
    ['uint8', [2], { int32Data: [255, 2] }, [255, 2]],
    ['bool', [2], { int32Data: [1, 0] }, [1, 0]],
    ['float8e4m3fn', [1], { int32Data: [0x38] }, [0x38]],
    ['uint4', [3], { int32Data: [0x21, 0x03] }, [0x21, 0x03]],
    ['int64', [1], { int64Data: [-2n] }, [0xfe, 255, 255, 255, 255, 255, 255, 255]],
    ['uint64', [1], { uint64Data: [2n ** 64n - 2n] }, [0xfe, 255, 255, 255, 255, 255, 255, 255]],
    ['uint32', [1], { uint64Data: [2n ** 32n - 2n] }, [0xfe, 255, 255, 255]],
    ['int64', [0, 3], {}, []],
    ['float32', [], { rawData: Uint8Array.of(0, 0, 0x80, 0x3f) }, [0, 0, 0x80, 0x3f]],
  ];

  it.each(cases)('are the same bytes wherever the file keeps them: %s %j', (dtype, dims, data, bytes) => {
    const proto = create(TensorProtoSchema, {
      dims: dims.map(BigInt),
      dataType: codeOfDtype(dtype),
      ...data,
    });
    const tensor = toTensor(proto, 'a tensor', { source: 'test' });
    expect({ ...tensor, bytes: [...tensor.bytes] }).toEqual({ dtype, shape: dims, bytes });
  });
});

/** A model with a bit of everything that Bonsai only carries along. */
function richModel(): ModelProto {
  const text = (value: string) => new TextEncoder().encode(value);
  const floatType = (size: bigint) => ({
    value: {
      case: 'tensorType' as const,
      value: {
        elemType: 1,
        shape: { dim: [{ value: { case: 'dimValue' as const, value: size }, denotation: 'DATA_FEATURE' }] },
      },
    },
    denotation: 'TENSOR',
  });
  const tensor = (name: string) => ({
    dims: [2n],
    dataType: 1,
    name,
    rawData: new Uint8Array(8).fill(64),
    docString: `doc of ${name}`,
    metadataProps: [{ key: 'k', value: 'v' }],
  });
  const model = create(ModelProtoSchema, {
    irVersion: 8n,
    producerName: 'someone',
    producerVersion: '1.2',
    domain: 'org.example',
    modelVersion: -3n,
    docString: 'the model',
    opsetImport: [
      { domain: '', version: 17n },
      { domain: 'custom', version: 1n },
    ],
    metadataProps: [{ key: 'author', value: 'me' }],
    graph: {
      name: 'g',
      docString: 'the graph',
      metadataProps: [{ key: 'g', value: '1' }],
      input: [
        { name: 'x', type: floatType(2n), docString: 'fed', metadataProps: [{ key: 'i', value: 'j' }] },
        { name: 'w', type: floatType(2n), docString: 'a default' },
      ],
      output: [
        { name: 'y', type: floatType(2n) },
        { name: 's', type: { value: { case: 'sequenceType', value: { elemType: floatType(2n) } } } },
      ],
      valueInfo: [{ name: 'm', type: { value: { case: 'tensorType', value: { elemType: 99 } } } }],
      initializer: [
        tensor('w'),
        { ...tensor('named'), docString: '' },
        { dims: [2n], dataType: 8, name: 'texts', stringData: [text('a'), text('')] },
      ],
      sparseInitializer: [
        { values: tensor('sparse'), indices: { dims: [2n], dataType: 7, int64Data: [0n, 3n] }, dims: [5n] },
      ],
      quantizationAnnotation: [
        { tensorName: 'w', quantParameterTensorNames: [{ key: 'SCALE_TENSOR', value: 's' }] },
      ],
      node: [
        {
          opType: 'Mystery',
          domain: 'custom',
          name: 'odd',
          overload: 'second',
          docString: 'the node',
          metadataProps: [{ key: 'n', value: '2' }],
          input: ['x', '', 'w', 'sparse'],
          output: ['m', '', 's'],
          attribute: [
            { name: 'f', type: 1, f: 0.1, docString: 'an attribute' },
            { name: 'i', type: 2, i: -(2n ** 63n) },
            { name: 's', type: 3, s: Uint8Array.of(0xff, 0) },
            { name: 't', type: 4, t: tensor('inner') },
            { name: 'fs', type: 6, floats: [1.5, Number.NEGATIVE_INFINITY, Number.NaN] },
            { name: 'is', type: 7, ints: [] },
            { name: 'ss', type: 8, strings: [text('p'), text('q')] },
            {
              name: 'ts',
              type: 9,
              tensors: [{ dims: [], dataType: 2, rawData: Uint8Array.of(7) }, tensor('second')],
            },
            { name: 'st', type: 11, sparseTensor: { values: tensor('v'), indices: tensor('j'), dims: [4n] } },
            { name: 'tp', type: 13, tp: floatType(9n) },
            { name: 'later', type: 77, docString: 'a kind of the future' },
            {
              name: 'g',
              type: 5,
              g: {
                name: 'body',
                node: [
                  {
                    opType: 'Add',
                    input: ['x', 'c'],
                    output: ['z'],
                    attribute: [{ name: 'r', type: 2, refAttrName: 'q' }],
                  },
                ],
                initializer: [tensor('c')],
                output: [{ name: 'z' }],
              },
            },
          ],
        },
        { opType: 'Identity', input: ['m'], output: ['y'] },
      ],
    },
    trainingInfo: [{ algorithm: { name: 'step' }, updateBinding: [{ key: 'w', value: 'y' }] }],
    functions: [
      {
        name: 'F',
        domain: 'custom',
        overload: 'o',
        input: ['a'],
        output: ['b'],
        attribute: ['alpha'],
        attributeProto: [{ name: 'beta', type: 1, f: 2 }],
        opsetImport: [{ domain: '', version: 17n }],
        node: [
          {
            opType: 'Elu',
            input: ['a'],
            output: ['b'],
            attribute: [{ name: 'alpha', type: 1, refAttrName: 'alpha' }],
          },
        ],
        valueInfo: [{ name: 'b' }],
      },
    ],
  });
  // Field 2000 of wire type 2 is nobody's; a decoder must hand it through wherever it occurs.
  const unknown = [{ no: 2000, wireType: 2, data: Uint8Array.of(3, 1, 2, 3) }];
  const graph = model.graph!;
  const node = graph.node[0]!;
  for (const message of [
    model,
    graph,
    node,
    node.attribute[0]!,
    node.attribute[3]!.t!,
    graph.input[0]!,
    graph.initializer[1]!,
  ]) {
    message.$unknown = unknown;
  }
  graph.input[0]!.type!.$unknown = unknown;
  return model;
}

async function answersOf(bytes: Uint8Array): Promise<Record<string, number[]>> {
  const session = await Session.create(bytes);
  try {
    const random = seededRandom(7);
    const feeds = Object.fromEntries(
      session.inputs.map(({ name, type }) => {
        const shape = type!.shape!.map((size) => (typeof size === 'number' && size > 0 ? size : 1));
        const count = shape.reduce((product, size) => product * size, 1);
        return [
          name,
          float32Tensor(
            shape,
            Float32Array.from({ length: count }, () => random.uniform()),
          ),
        ];
      }),
    );
    const outputs = await session.run(feeds);
    return Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, [...tensor.bytes]]));
  } finally {
    await session.release();
  }
}

/**
 * What the second file says differently from the first, by comparing the decoded messages piece by piece after
 * bringing both to one spelling of what ONNX lets a file spell in several ways: where elements of tensors lie,
 * empty strings against absent ones, the order of inputs that are initialisers.
 */
function loss(before: Uint8Array, after: Uint8Array): string[] {
  const [a, b] = [before, after].map((bytes) => canonicalModel(fromBinary(ModelProtoSchema, bytes))) as [
    ModelProto,
    ModelProto,
  ];
  const differences: string[] = [];
  const nodes = Math.max(a.graph!.node.length, b.graph!.node.length);
  for (let i = 0; i < nodes; i++) {
    const [first, second] = [a.graph!.node[i], b.graph!.node[i]];
    if (!first || !second || !same(NodeProtoSchema, first, second)) differences.push(`node ${i}`);
  }
  a.graph!.node = [];
  b.graph!.node = [];
  if (a.graph!.initializer.length !== b.graph!.initializer.length) differences.push('initializers');
  a.graph!.initializer.forEach((tensor, i) => {
    const other = b.graph!.initializer[i]!;
    if (Buffer.compare(tensor.rawData, other.rawData) !== 0) differences.push(`bytes of ${tensor.name}`);
    clearField(tensor, TensorProtoSchema.field.rawData);
    clearField(other, TensorProtoSchema.field.rawData);
  });
  if (!same(GraphProtoSchema, a.graph!, b.graph!)) differences.push('graph');
  a.graph = undefined;
  b.graph = undefined;
  if (!same(ModelProtoSchema, a, b)) differences.push('model');
  return differences;
}

/** Equality that knows NaN and unknown fields: both are in the bytes. */
function same<D extends DescMessage>(schema: D, a: MessageShape<D>, b: MessageShape<D>): boolean {
  return Buffer.compare(toBinary(schema, a), toBinary(schema, b)) === 0;
}

function canonicalModel(model: ModelProto): ModelProto {
  withoutEmptyStrings(model);
  if (model.modelVersion === 0n) clearField(model, ModelProtoSchema.field.modelVersion);
  for (const entry of model.opsetImport) {
    if (entry.domain === 'ai.onnx') entry.domain = '';
    entry.domain = `${entry.domain}`;
  }
  canonicalGraph(model.graph!);
  return model;
}

function canonicalGraph(graph: GraphProto): void {
  withoutEmptyStrings(graph);
  graph.name = `${graph.name}`;
  const constants = new Set(graph.initializer.map((tensor) => tensor.name));
  const order = (name: string) => (constants.has(name) ? 1 : 0);
  // Stable: real inputs first, then initialisers by name.
  graph.input.sort(
    (a, b) => order(a.name) - order(b.name) || (constants.has(a.name) ? (a.name < b.name ? -1 : 1) : 0),
  );
  for (const info of [...graph.input, ...graph.output, ...graph.valueInfo]) {
    withoutEmptyStrings(info);
    withoutUnknownSizes(info);
    info.name = `${info.name}`;
  }
  graph.initializer.forEach(canonicalTensor);
  for (const node of graph.node) {
    withoutEmptyStrings(node);
    if (node.domain === 'ai.onnx') clearField(node, NodeProtoSchema.field.domain);
    node.attribute.forEach(canonicalAttribute);
  }
}

function canonicalAttribute(attribute: AttributeProto): void {
  withoutEmptyStrings(attribute);
  if (attribute.t !== undefined) canonicalTensor(attribute.t);
  attribute.tensors.forEach(canonicalTensor);
  for (const graph of attribute.g === undefined ? attribute.graphs : [attribute.g]) canonicalGraph(graph);
}

function canonicalTensor(tensor: TensorProto): void {
  withoutEmptyStrings(tensor);
  if (tensor.dataType !== codeOfDtype('string')) {
    tensor.rawData = toTensor(clone(TensorProtoSchema, tensor), 'a tensor', { source: 'test' }).bytes;
  }
  tensor.floatData = [];
  tensor.doubleData = [];
  tensor.int32Data = [];
  tensor.int64Data = [];
  tensor.uint64Data = [];
  if (tensor.dataLocation === 0) clearField(tensor, TensorProtoSchema.field.dataLocation);
}

/** Some exporters write -1 for a size that they do not know; ONNX's way is to leave it out. */
function withoutUnknownSizes(info: ValueInfoProto): void {
  const type = info.type?.value;
  for (const dim of (type?.case === 'tensorType' && type.value.shape?.dim) || []) {
    if (dim.value.case === 'dimValue' && dim.value.value === -1n) dim.value = { case: undefined };
  }
}

function withoutEmptyStrings(message: object): void {
  for (const [key, value] of Object.entries(message)) {
    if (value === '') delete (message as Record<string, unknown>)[key]; // Falls back to the message's default, ''.
  }
}
