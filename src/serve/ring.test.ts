import { describe, expect, it } from 'vitest';
import { float32Tensor, int64Tensor, type Tensor } from '../base/tensor.ts';
import { createRing, putTensors, takeTensors, viewOf } from './ring.ts';

describe('a slot of the ring', () => {
  const region = () => viewOf(createRing(64, 64)).slots[1]!.request;

  it('gives back the tensors put in, in private memory', () => {
    const tensors = [float32Tensor([1, 3], [1, 2, 3]), int64Tensor([7, -1]), float32Tensor([0], [])];
    const slot = region();
    expect(putTensors(slot, tensors)).toBe(true);
    const taken = takeTensors(slot, ['float32', 'int64', 'float32']);
    slot.payload.fill(0xff);
    expect(taken).toEqual(tensors);
    expect(taken[0]!.bytes.buffer).toBeInstanceOf(ArrayBuffer);
  });

  it('says what does not fit: too many bytes, too many sizes, strings', () => {
    const strings: Tensor = {
      dtype: 'string',
      shape: [1],
      bytes: new Uint8Array(0),
      strings: [new Uint8Array(1)],
    };
    expect(putTensors(region(), [float32Tensor([17], new Float32Array(17))])).toBe(false);
    expect(
      putTensors(
        region(),
        Array.from({ length: 100 }, () => float32Tensor([1, 0], [])),
      ),
    ).toBe(false);
    expect(putTensors(region(), [strings])).toBe(false);
  });
});
