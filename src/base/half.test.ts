import { expect, test } from 'vitest';
import { halfNumbers, halfTensor, withoutHalf } from './half.ts';
import { elementsOf, float32Tensor, floatsOf, tensorOf } from './tensor.ts';

test.each(['float16', 'bfloat16'] as const)('every number of %s comes back as its bits', (dtype) => {
  const all = Uint16Array.from({ length: 2 ** 16 }, (_, bits) => bits);
  const numbers = halfNumbers({ ...tensorOf(dtype, [2 ** 16], all), dtype });
  const back = elementsOf(halfTensor(dtype, [2 ** 16], numbers));
  expect(all.filter((bits) => !Number.isNaN(numbers[bits]!) && back[bits] !== bits)).toEqual(
    new Uint16Array(),
  );
  expect(numbers.filter(Number.isNaN).length).toBe(dtype === 'float16' ? 2 * 1023 : 2 * 127);
});

test('numbers in between go to the nearest, of two as near to the even one', () => {
  const half = (dtype: 'float16' | 'bfloat16', numbers: number[]) =>
    Array.from(floatsOf(withoutHalf(halfTensor(dtype, [numbers.length], numbers))));
  const step = 2 ** -10;
  expect(half('float16', [1 + 0.4 * step, 1 + 0.6 * step, 1 + 0.5 * step, 1 + 1.5 * step])).toEqual([
    1,
    1 + step,
    1,
    1 + 2 * step,
  ]);
  expect(half('float16', [2 - step / 4, 65519, 65520, -1e9, 2 ** -25, 1.5 * 2 ** -24])).toEqual([
    2,
    65504,
    Number.POSITIVE_INFINITY,
    Number.NEGATIVE_INFINITY,
    0,
    2 ** -23,
  ]);
  expect(half('bfloat16', [1 + 2 ** -9, 1 + 3 * 2 ** -9, -3.4e38 * 1.0005])).toEqual([
    1,
    1 + 2 ** -7,
    Number.NEGATIVE_INFINITY,
  ]);
  expect(half('float16', [Number.NaN])).toEqual([Number.NaN]);
  const single = float32Tensor([1], [0.1]);
  expect(withoutHalf(single)).toBe(single);
});
