import fc from 'fast-check';
import { expect, test } from 'vitest';
import { FrameRing } from './frame-ring.ts';

test('keeps the latest frames under their numbers, whatever came', () => {
  const frames = fc.array(fc.string({ maxLength: 8 }), { maxLength: 60 });
  fc.assert(
    fc.property(
      frames,
      fc.integer({ min: 1, max: 9 }),
      fc.nat(70),
      fc.nat(70),
      (texts, capacity, from, to) => {
        const ring = new FrameRing(capacity);
        for (const text of texts) ring.push(text);
        const kept = texts.map((text, i) => ({ seq: i + 1, text })).slice(-capacity);
        expect(ring.lastSeq).toBe(texts.length);
        expect(ring.firstSeq).toBe(kept[0]?.seq ?? texts.length + 1);
        expect(ring.between(from, to)).toEqual(
          kept.filter(({ seq }) => seq >= from && seq < to).map(({ text }) => text),
        );
      },
    ),
  );
});

test('lets old frames go for the sake of memory, but never the newest', () => {
  const ring = new FrameRing(100, 10);
  for (const text of ['aaaa', 'bbbb', 'cccc', 'a frame of more than ten bytes']) ring.push(text);
  expect(ring.between(0, 100)).toEqual(['a frame of more than ten bytes']);
  ring.push('dd');
  expect(ring.between(0, 100)).toEqual(['dd']);
  expect([ring.firstSeq, ring.lastSeq]).toEqual([5, 5]);
});
