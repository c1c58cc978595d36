import { describe, expect, it } from 'vitest';
import { parseAugmentation } from './options.ts';
import { augmentationOf } from './train.ts';

describe('--augment', () => {
  it('reads every variation, in any order', () => {
    expect(parseAugmentation('flip, shift=2,rotate=10,scale=0.1,shear=0.2,elastic=1.5@5,cutout=6')).toEqual({
      shiftPixels: 2,
      rotateDegrees: 10,
      scaleRatio: 0.1,
      shearRatio: 0.2,
      elastic: { strengthPixels: 1.5, smoothnessPixels: 5 },
      flip: true,
      cutoutPixels: 6,
    });
    expect(parseAugmentation('elastic=1.5')).toEqual({
      elastic: { strengthPixels: 1.5, smoothnessPixels: 4 },
    });
  });

  it.each([
    ['', /"" is none of shift, rotate/],
    ['shift=2,twist=3', /"twist=3" is none of/],
    ['shift=', /"shift=" gives no number/],
    ['shift=1=2', /gives no number/],
    ['elastic=1@2@3', /gives no number/],
    ['rotate', /"rotate" gives no number/],
    ['shift=1,shift=2', /shift is given twice/],
    ['flip=1', /flip takes no value/],
    ['rotate=500', /rotateDegrees is 500, expected a number from 0 to 180/],
  ])('refuses "%s"', (text, message) => {
    expect(() => parseAugmentation(text)).toThrow(message);
  });

  it('takes the shift of --shift unless it has its own', () => {
    expect(augmentationOf({ shift: 0 })).toBeUndefined();
    expect(augmentationOf({ shift: 2 })).toEqual({ shiftPixels: 2 });
    expect(augmentationOf({ shift: 2, augment: { flip: true } })).toEqual({ shiftPixels: 2, flip: true });
    expect(augmentationOf({ shift: 2, augment: { shiftPixels: 3 } })).toEqual({ shiftPixels: 3 });
  });
});
