import { seededRandom } from '../base/random.ts';
import type { Dataset, Split } from './data/data-module.ts';

/** Five classes of 8 x 8 images on two channels, told apart by the position of a bright column. */
export function stripes(): Dataset {
  const random = seededRandom(9);
  const split = (count: number): Split => {
    const labels = Uint8Array.from({ length: count }, (_, i) => i % 5);
    const images = Uint8Array.from({ length: count * 128 }, (_, at) => {
      const column = at % 8;
      return column === labels[Math.floor(at / 128)]! + 1 ? 255 : random.integer(64);
    });
    return { count, images, labels };
  };
  return {
    name: 'stripes',
    classes: ['a', 'b', 'c', 'd', 'e'],
    shape: [2, 8, 8],
    train: split(80),
    validation: split(20),
    test: split(40),
    normalization: { mean: [0, 0], std: [1, 1] },
  };
}
