import { axisScale, bottomAxis, CHART, type ChartAxis, leftAxis, PALETTE_SIZE } from './chart.ts';
import { drawing, element, label, line, type Markup } from './svg.ts';

/** Location and spread of a repeated measurement. */
export interface Box {
  readonly min: number;
  readonly lowerQuartile: number;
  readonly median: number;
  readonly upperQuartile: number;
  readonly max: number;
}

/** Boxes of one condition, by category; undefined where it was not measured. */
export interface BoxSeries {
  readonly name: string;
  readonly boxes: readonly (Box | undefined)[];
}

/** Box plots side by side in categories, whiskers from the least to the greatest value. */
export function boxFigure(options: {
  readonly id: string;
  readonly title: string;
  readonly categories: readonly string[];
  readonly categoryTitle: string;
  readonly y: ChartAxis;
  readonly series: readonly BoxSeries[];
}): Markup {
  const { id, title, categories, categoryTitle, y: yAxis, series } = options;
  const { width, left, right, top, bottom, letter } = CHART;
  const named = series.length > 1;
  const edge = width - right - (named ? 26 + letter * Math.max(...series.map(({ name }) => name.length)) : 0);
  const floor = CHART.height - bottom;
  const xAxis: ChartAxis = { title: categoryTitle, names: categories };
  const x = axisScale(xAxis, [], [left, edge]);
  const all = series.flatMap(({ boxes }) =>
    boxes.flatMap((box) => (box === undefined ? [] : [box.min, box.max])),
  );
  const y = axisScale(yAxis, all, [floor, top]);
  const slot = (edge - left) / Math.max(1, categories.length);
  const boxWidth = Math.min(22, (0.8 * slot) / Math.max(1, series.length));
  return drawing(
    {
      id,
      width,
      height: CHART.height,
      title,
      description: `${yAxis.title} of ${categories.length} versions: median, quartiles, least and greatest value.`,
    },
    [
      ...leftAxis(yAxis, y, edge),
      ...bottomAxis(xAxis, x, floor, CHART.height),
      ...series.flatMap(({ boxes }, s) =>
        boxes.map((box, category) => {
          if (box === undefined) return '';
          const middle = x.at(category) + (s - (series.length - 1) / 2) * boxWidth;
          return element('g', { class: `c${s % PALETTE_SIZE}` }, oneBox(box, middle, 0.76 * boxWidth, y.at));
        }),
      ),
      ...(named
        ? series.flatMap(({ name }, s) => {
            const middle = top + 8 + 18 * s;
            return [
              element('g', { class: `c${s % PALETTE_SIZE}` }, [
                element('rect', { class: 'box', x: edge + 8, y: middle - 5, width: 12, height: 10 }),
              ]),
              label(edge + 25, middle + 4, name, { class: 'tick' }),
            ];
          })
        : []),
    ],
  );
}

function oneBox(box: Box, middle: number, width: number, at: (value: number) => number): Markup[] {
  const [low, high] = [at(box.lowerQuartile), at(box.upperQuartile)];
  return [
    line(middle, at(box.min), middle, low, 'whisker'),
    line(middle, high, middle, at(box.max), 'whisker'),
    element('rect', {
      class: 'box',
      x: middle - width / 2,
      y: high,
      width,
      // A box of no height is still to be seen.
      height: Math.max(1, low - high),
    }),
    line(middle - width / 2, at(box.median), middle + width / 2, at(box.median), 'median'),
  ];
}
