import { describe, expect, it } from 'vitest';
import { boxFigure } from './box-figure.ts';
import { CHART, chart } from './chart.ts';

const simple = (more: object = {}) =>
  chart({
    id: 'c',
    title: 'T',
    x: { title: 'x', domain: [0, 10] },
    y: { title: 'y', domain: [0, 100] },
    series: [
      {
        name: 'only',
        kind: 'dots',
        points: [
          { x: 0, y: 0 },
          { x: 10, y: 100, label: 'top', isOutlined: true },
        ],
      },
    ],
    ...more,
  });

describe('a chart', () => {
  it('puts the ends of the axes at the corners', () => {
    const [low, high] = [...simple().matchAll(/<circle cx="([\d.]+)" cy="([\d.]+)"/g)].map(([, x, y]) => [
      Number(x),
      Number(y),
    ]);
    expect(low).toEqual([CHART.left, CHART.height - CHART.bottom]);
    expect(high).toEqual([CHART.width - CHART.right, CHART.top]);
  });

  it('keeps labels inside, and marks what is to be marked', () => {
    const [, left] = /<text x="([\d.]+)" y="[\d.]+" class="variant-label">top</.exec(simple())!;
    expect(Number(left)).toBeLessThan(CHART.width - CHART.right);
    expect(simple().match(/class="point outlined"/g)).toHaveLength(1);
  });

  it('leaves out what is no number', () => {
    const drawn = simple({
      series: [
        {
          name: 'holes',
          kind: 'dots',
          points: [
            { x: 1, y: Number.NaN },
            { x: 2, y: 5 },
          ],
        },
      ],
    });
    expect(drawn.match(/<circle/g)).toHaveLength(1);
    expect(drawn).not.toContain('NaN');
  });

  it('draws equal steps of a logarithmic axis for equal ratios', () => {
    const drawn = simple({
      x: { title: 'x', kind: 'log', domain: [1, 100] },
      series: [{ name: 'log', kind: 'dots', points: [1, 10, 100].map((x) => ({ x, y: 1 })) }],
    });
    const [a, b, c] = [...drawn.matchAll(/<circle cx="([\d.]+)"/g)].map(([, x]) => Number(x));
    expect(b! - a!).toBeCloseTo(c! - b!, 1);
  });

  it('is drawn without any data', () => {
    for (const kind of ['linear', 'log'] as const)
      expect(
        chart({ id: 'e', title: 'T', x: { title: 'x', kind }, y: { title: 'y', kind }, series: [] }),
      ).toContain('no data');
  });
});

describe('boxes', () => {
  it('lie between their quartiles, one after the other, and are left out where nothing was measured', () => {
    const box = { min: 1, lowerQuartile: 2, median: 3, upperQuartile: 4, max: 5 };
    const drawn = boxFigure({
      id: 'b',
      title: 'T',
      categories: ['a', 'b'],
      categoryTitle: 'category',
      y: { title: 'y', domain: [0, 6] },
      series: [
        { name: 'one', boxes: [box, undefined] },
        { name: 'two', boxes: [box, box] },
      ],
    });
    // Two entries of the legend as well.
    const boxes = [
      ...drawn.matchAll(/<rect class="box" x="([\d.]+)" y="([\d.]+)" width="[\d.]+" height="([\d.]+)"/g),
    ];
    expect(boxes).toHaveLength(3 + 2);
    const height = CHART.height - CHART.bottom - CHART.top;
    // Of an axis of 6, the box has (4 − 2) / 6.
    expect(Number(boxes[0]![3])).toBeCloseTo(height / 3, 1);
    expect(Number(boxes[0]![1])).toBeLessThan(Number(boxes[1]![1]));
  });
});
