import { create, toBinary } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { DType } from '../../base/dtype.ts';
import { BonsaiError } from '../../base/errors.ts';
import { elementsOf } from '../../base/tensor.ts';
import { InvalidRequestError } from '../errors.ts';
import { type ParameterValue, readInferMessage } from './infer-message.ts';
import { InferTensorContentsSchema, ModelInferRequestSchema } from './inference_pb.ts';
import { tensorFromContents } from './tensors.ts';

const SEED = 20_261_129;

const parameter = fc.oneof(
  fc.boolean().map((value) => ({ case: 'boolParam' as const, value })),
  fc
    .bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })
    .map((value) => ({ case: 'int64Param' as const, value })),
  fc.string({ unit: 'grapheme' }).map((value) => ({ case: 'stringParam' as const, value })),
  fc.double({ noNaN: true }).map((value) => ({ case: 'doubleParam' as const, value })),
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map((value) => ({ case: 'uint64Param' as const, value })),
);
const key = fc.string({ maxLength: 40 }).filter((name) => name !== '__proto__');
const parameters = fc
  .dictionary(key, parameter, { maxKeys: 4, noNullPrototype: true })
  .map((entries) =>
    Object.fromEntries(Object.entries(entries).map(([name, choice]) => [name, { parameterChoice: choice }])),
  );
const bytes = fc.uint8Array({ maxLength: 400 });
const request = fc.record({
  modelName: fc.string({ unit: 'grapheme' }),
  modelVersion: fc.string(),
  id: fc.string({ unit: 'grapheme', maxLength: 60 }),
  parameters,
  inputs: fc.array(
    fc.record({
      name: fc.string(),
      datatype: fc.string(),
      shape: fc.array(fc.bigInt({ min: 0n, max: 2n ** 53n - 1n }), { maxLength: 6 }),
      parameters,
    }),
    { maxLength: 4 },
  ),
  outputs: fc.array(fc.record({ name: fc.string(), parameters }), { maxLength: 4 }),
  rawInputContents: fc.array(bytes, { maxLength: 4 }),
});

type Generated = Record<string, { parameterChoice: { value: ParameterValue } }>;
const plain = (entries: Generated) =>
  new Map(Object.entries(entries).map(([name, { parameterChoice }]) => [name, parameterChoice.value]));

describe('a request read by hand', () => {
  it('is what the generated code has written', () => {
    fc.assert(
      fc.property(request, (value) => {
        const message = readInferMessage(
          toBinary(ModelInferRequestSchema, create(ModelInferRequestSchema, value)),
        );
        expect(message.modelName).toBe(value.modelName);
        expect(message.modelVersion).toBe(value.modelVersion);
        expect(message.id).toBe(value.id);
        expect(message.parameters).toEqual(plain(value.parameters));
        expect(message.inputs).toEqual(
          value.inputs.map((input) => ({
            ...input,
            shape: input.shape.map(Number),
            parameters: plain(input.parameters),
            contents: undefined,
          })),
        );
        expect(message.outputs).toEqual(
          value.outputs.map((output) => ({ ...output, parameters: plain(output.parameters) })),
        );
        expect(message.rawContents.map((raw) => [...raw])).toEqual(
          value.rawInputContents.map((raw) => [...raw]),
        );
      }),
      { seed: SEED, numRuns: 300 },
    );
  });

  it('does not copy raw contents', () => {
    const value = create(ModelInferRequestSchema, { rawInputContents: [new Uint8Array(100)] });
    const encoded = toBinary(ModelInferRequestSchema, value);
    expect(readInferMessage(encoded).rawContents[0]?.buffer).toBe(encoded.buffer);
  });

  it('fails by InvalidRequestError or is read, whatever the bytes are', () => {
    const damaged = fc
      .tuple(request, fc.array(fc.tuple(fc.nat(2000), fc.nat(255)), { maxLength: 6 }), fc.nat(2000))
      .map(([value, changes, cut]) => {
        const encoded = toBinary(ModelInferRequestSchema, create(ModelInferRequestSchema, value));
        for (const [position, byte] of changes) {
          if (encoded.length > 0) encoded[position % encoded.length] = byte;
        }
        return encoded.subarray(0, cut % 3 === 0 ? cut % (encoded.length + 1) : encoded.length);
      });
    fc.assert(
      fc.property(fc.oneof(damaged, fc.uint8Array({ maxLength: 300 })), (encoded) => {
        try {
          readInferMessage(encoded);
        } catch (thrown) {
          expect(thrown).toBeInstanceOf(InvalidRequestError);
        }
      }),
      { seed: SEED, numRuns: 3000 },
    );
  });

  it('has a bounded number of everything', () => {
    const many = create(ModelInferRequestSchema, {
      inputs: Array.from({ length: 2000 }, () => ({ name: 'x' })),
    });
    expect(() => readInferMessage(toBinary(ModelInferRequestSchema, many))).toThrow(/more than 1024 inputs/);
    const deep = create(ModelInferRequestSchema, { inputs: [{ name: 'x', shape: Array(17).fill(1n) }] });
    expect(() => readInferMessage(toBinary(ModelInferRequestSchema, deep))).toThrow(/more than 16 sizes/);
    const negative = create(ModelInferRequestSchema, { inputs: [{ name: 'x', shape: [-1n] }] });
    expect(() => readInferMessage(toBinary(ModelInferRequestSchema, negative))).toThrow(/0 or more; got -1/);
  });
});

describe('typed contents', () => {
  const read = (
    dtype: DType,
    contents: Parameters<typeof create<typeof InferTensorContentsSchema>>[1],
    count: number,
  ) =>
    tensorFromContents(
      dtype,
      [count],
      toBinary(InferTensorContentsSchema, create(InferTensorContentsSchema, contents)),
      "input 'x'",
    );

  it('keep all values of every type that has them', () => {
    const cases = [
      ['bool', { boolContents: [true, false] }, [1, 0]],
      ['int8', { intContents: [-128, 127] }, [-128, 127]],
      ['int16', { intContents: [-32_768, 32_767] }, [-32_768, 32_767]],
      ['int32', { intContents: [-(2 ** 31), 2 ** 31 - 1] }, [-(2 ** 31), 2 ** 31 - 1]],
      ['int64', { int64Contents: [-(2n ** 63n), 2n ** 53n + 1n] }, [-(2n ** 63n), 2n ** 53n + 1n]],
      ['uint8', { uintContents: [0, 255] }, [0, 255]],
      ['uint16', { uintContents: [0, 65_535] }, [0, 65_535]],
      ['uint32', { uintContents: [0, 2 ** 32 - 1] }, [0, 2 ** 32 - 1]],
      ['uint64', { uint64Contents: [0n, 2n ** 64n - 1n] }, [0n, 2n ** 64n - 1n]],
      ['float32', { fp32Contents: [0.5, Number.NaN] }, [0.5, Number.NaN]],
      ['float64', { fp64Contents: [0.1, Number.NEGATIVE_INFINITY] }, [0.1, Number.NEGATIVE_INFINITY]],
    ] as const;
    for (const [dtype, contents, values] of cases) {
      const mutable = contents as unknown as Parameters<typeof read>[1];
      expect([...elementsOf(read(dtype, mutable, 2))], dtype).toEqual([...values]);
    }
    const strings = read('string', { bytesContents: [Buffer.from('a\0b'), new Uint8Array(0)] }, 2);
    expect(strings.strings?.map((item) => Buffer.from(item).toString())).toEqual(['a\0b', '']);
  });

  it('may come one by one as well as packed', () => {
    // Field 6, wire type 5 (0x35): 1.0 and 2.0; then packed (0x32), four bytes: 3.0.
    const contents = Uint8Array.from([0x35, 0, 0, 128, 63, 0x35, 0, 0, 0, 64, 0x32, 4, 0, 0, 64, 64]);
    expect([...elementsOf(tensorFromContents('float32', [3], contents, 'x'))]).toEqual([1, 2, 3]);
    // Field 2, wire type 0 (0x10): 5; then packed (0x12): 6, 7.
    const integers = Uint8Array.from([0x10, 5, 0x12, 2, 6, 7]);
    expect([...elementsOf(tensorFromContents('int8', [3], integers, 'x'))]).toEqual([5, 6, 7]);
  });

  it.each([
    ['too few', 'float32', { fp32Contents: [1] }, /got 1 elements, but its shape has 2/],
    ['too many', 'int64', { int64Contents: [1n, 2n, 3n] }, /got more than 2 elements/],
    ['out of range', 'int8', { intContents: [1, 128] }, /INT8 takes integers from -128 to 127, got 128/],
    [
      'of another type',
      'float32',
      { intContents: [1, 2] },
      /FP32 is expected in fp32_contents, got int_contents/,
    ],
    ['half floats', 'float16', { fp32Contents: [1, 2] }, /FP16 has no typed contents/],
    ['missing', 'string', {}, /got 0 elements, but its shape has 2/],
  ] as const)('are refused: %s', (_, dtype, contents, message) => {
    expect(() => read(dtype, contents as unknown as Parameters<typeof read>[1], 2)).toThrow(message);
  });

  it('fail by InvalidRequestError or are read, whatever the bytes are', () => {
    const dtypes = ['bool', 'int8', 'int64', 'uint32', 'float32', 'float64', 'string', 'bfloat16'] as const;
    fc.assert(
      fc.property(
        fc.constantFrom(...dtypes),
        fc.uint8Array({ maxLength: 60 }),
        fc.nat(8),
        (dtype, raw, count) => {
          try {
            tensorFromContents(dtype, [count], raw, 'x');
          } catch (thrown) {
            expect(thrown).toBeInstanceOf(BonsaiError);
          }
        },
      ),
      { seed: SEED, numRuns: 2000 },
    );
  });
});
