import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseTextProto, TextProtoError } from './text-proto.ts';

/** Maps and identifiers as plain values, so that they can be compared at a glance. */
function plain(value: unknown): unknown {
  if (value instanceof Map)
    return Object.fromEntries([...value].map(([key, items]) => [key, items.map(plain)]));
  return value;
}

describe('the text format', () => {
  it('reads a configuration as Triton writes it', () => {
    const text = `
      name: "digits" # a comment with "quotes"
      max_batch_size: 8
      input [ { name: "image" data_type: TYPE_FP32 dims: [ 1, -1 ] }, { name: 'mask' dims: 3; dims: 4 } ]
      version_policy: { specific < versions: [1, 2] > }
      parameters { key: "a" value: { string_value: "x\\n" "y\\042\\x41" } }
      dynamic_batching { }
      flags: [] ratio: -1.5e-3 big: 9223372036854775807 hex: 0x1F is_on: true
    `;
    expect(plain(parseTextProto(text))).toEqual({
      name: ['digits'],
      max_batch_size: [8],
      input: [
        { name: ['image'], data_type: [{ identifier: 'TYPE_FP32' }], dims: [1, -1] },
        { name: ['mask'], dims: [3, 4] },
      ],
      version_policy: [{ specific: [{ versions: [1, 2] }] }],
      parameters: [{ key: ['a'], value: [{ string_value: ['x\ny"A'] }] }],
      dynamic_batching: [{}],
      flags: [],
      ratio: [-0.0015],
      big: [9223372036854775807n],
      hex: [31],
      is_on: [true],
    });
  });

  it.each([
    ['name: ', /line 1: expected a value, got the end/],
    ['a: 1\nb {', /line 2: expected the name of a field, got the end/],
    ['a: [1 2]', /expected "," or "]", got 2/],
    ['a "x"', /expected ":" or "{"/],
    ['a: "x', /line 1: cannot read/],
    ['}', /expected the name of a field, got }/],
    ['a: {b: 1>', /expected the name of a field, got >/],
    ['\x00\x01garbage', /cannot read/],
  ])('refuses %j with its line', (text, message) => {
    expect(() => parseTextProto(text)).toThrow(TextProtoError);
    expect(() => parseTextProto(text)).toThrow(message);
  });

  it('refuses deep nesting and answers any text at all by a result or an error of its own', () => {
    expect(() => parseTextProto('a {'.repeat(100))).toThrow(/nested deeper/);
    const pieces = fc.constantFrom(
      'a',
      ':',
      '{',
      '}',
      '[',
      ']',
      '<',
      '>',
      ',',
      '1',
      '-',
      '"x"',
      '"',
      '#',
      '\n',
      ' ',
    );
    fc.assert(
      fc.property(fc.array(fc.oneof(pieces, fc.string()), { maxLength: 40 }), (parts) => {
        try {
          parseTextProto(parts.join(''));
        } catch (thrown) {
          expect(thrown).toBeInstanceOf(TextProtoError);
        }
      }),
      { seed: 1, numRuns: 2000 },
    );
  });
});
