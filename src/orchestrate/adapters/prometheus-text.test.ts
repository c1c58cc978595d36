import { expect, test } from 'vitest';
import { parsePrometheusText, seriesKey } from './prometheus-text.ts';

const read = (text: string) =>
  parsePrometheusText(text).map(({ labels, ...rest }) => ({ ...rest, labels: { ...labels } }));

test('samples are read with labels, timestamps and values of every form', () => {
  const text = [
    '# HELP http_requests_total The "total".',
    '# TYPE http_requests_total counter',
    'http_requests_total{method="post",code="200"} 1027 1395066363000',
    'http_requests_total { method = "post" , code = "400", } 3',
    '',
    'plain 12.47',
    'spread\t-1.5e-3\t-7\r',
    'a{} +Inf',
    'b -Inf',
    'c Nan',
    'd:e_f{le="+Inf"} .5e+1',
  ].join('\n');
  expect(read(text)).toEqual([
    {
      name: 'http_requests_total',
      labels: { method: 'post', code: '200' },
      value: 1027,
      timestampMs: 1395066363000,
    },
    { name: 'http_requests_total', labels: { method: 'post', code: '400' }, value: 3 },
    { name: 'plain', labels: {}, value: 12.47 },
    { name: 'spread', labels: {}, value: -0.0015, timestampMs: -7 },
    { name: 'a', labels: {}, value: Number.POSITIVE_INFINITY },
    { name: 'b', labels: {}, value: Number.NEGATIVE_INFINITY },
    { name: 'c', labels: {}, value: Number.NaN },
    { name: 'd:e_f', labels: { le: '+Inf' }, value: 5 },
  ]);
});

test('label values may hold anything that is escaped', () => {
  const [sample] = parsePrometheusText(
    String.raw`m{path="C:\\dir\\n",text="say \"hi\"\nthere, {x=1} 2",__proto__="é\q"} 1`,
  );
  expect(Object.entries(sample!.labels)).toEqual([
    ['path', 'C:\\dir\\n'],
    ['text', 'say "hi"\nthere, {x=1} 2'],
    ['__proto__', 'é\\q'],
  ]);
});

test.each([
  ['{a="b"} 1', 'no metric name'],
  ['9lives 1', 'no metric name'],
  ['m', 'no value'],
  ['m one', 'no value'],
  ['m 0x10', 'no value'],
  ['m 1 2 3', 'no value'],
  ['m{a=b} 1', 'a label'],
  ['m{a="b} 1', 'a label'],
  ['m{a="b"', 'a label'],
  ['m{a="b" c="d"} 1', 'a label'],
])('%s is refused', (line, what) => {
  expect(() => parsePrometheusText(`ok 1\n${line}\n`)).toThrow(`Line 2 of the metrics has ${what}`);
});

test('the key of a series does not depend on the order of labels', () => {
  const [a, b, c] = parsePrometheusText('m{x="1",y="2"} 1\nm{y="2",x="1"} 2\nm{x="2",y="1"} 3');
  expect(seriesKey(a!)).toBe(seriesKey(b!));
  expect(seriesKey(a!)).not.toBe(seriesKey(c!));
});
