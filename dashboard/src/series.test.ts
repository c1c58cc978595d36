import { expect, it } from 'vitest';
import type { Frame, TaskFrame } from '../../src/serve/control/messages.ts';
import { DOT_FIGURES, seriesOf } from './series.ts';

const TASK = { task: 'digits', isSloByHand: false, versions: [] };

function frame(seq: number, task: Partial<TaskFrame>): Frame {
  const whole = { arrivals: 10, resident: {}, ...task };
  return { seq, atMs: 1000 * seq, spanMs: 1000, tasks: { digits: whole } };
}

it('judges answers by the objective of their time, whatever it became', () => {
  const frames = [
    frame(1, { dots: [0, 40, 3] }),
    frame(2, { sloMs: 50, dots: [0, 40, 3, 100, 60, 3] }),
    frame(3, { sloMs: 30, dots: [0, 40, 3] }),
  ];
  const { digits } = Object.fromEntries(seriesOf(frames, [TASK], 0, 4_000).tasks);
  expect(digits!.sloMs).toEqual([null, 50, 30]);
  const dots = Array.from({ length: digits!.dots.length / DOT_FIGURES }, (_, i) =>
    digits!.dots.slice(DOT_FIGURES * i, DOT_FIGURES * (i + 1)),
  );
  expect(dots.toSorted((a, b) => a[0]! - b[0]!)).toEqual([
    [1, 40, 3, 0],
    [1.9, 60, 3, 1],
    [2, 40, 3, 0],
    [3, 40, 3, 1],
  ]);
});
