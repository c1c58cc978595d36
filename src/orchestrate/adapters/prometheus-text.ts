import { BonsaiError } from '../../base/errors.ts';

/** One line of an exposition: a series and its value. */
export interface MetricSample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  /** May be NaN or infinite. */
  readonly value: number;
  readonly timestampMs?: number;
}

/**
 * Reads Prometheus' text exposition format, version 0.0.4: `name{label="value",…} value [timestamp]`, comments
 * and blank lines between. Samples keep the order of the text; histograms and summaries appear as the plain series
 * they consist of. Source: prometheus.io/docs/instrumenting/exposition_formats.
 * @throws BonsaiError `invalid_request` naming the line that is no sample
 */
export function parsePrometheusText(text: string): MetricSample[] {
  const samples: MetricSample[] = [];
  for (const [index, raw] of text.split('\n').entries()) {
    const line = raw.trim();
    if (line === '' || line.startsWith('#')) continue;
    samples.push(parseLine(line, index + 1));
  }
  return samples;
}

/** Identifies a series: its name and its labels in the order of their names. */
export function seriesKey(sample: MetricSample): string {
  const labels = Object.entries(sample.labels).toSorted(([a], [b]) => (a < b ? -1 : 1));
  return `${sample.name}${JSON.stringify(labels)}`;
}

const NAME = /[a-zA-Z_:][a-zA-Z0-9_:]*/y;
const LABEL = /[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(,|(?=\}))/y;
const REST = /^[ \t]*(\S+)(?:[ \t]+(-?\d+))?$/;
const FLOAT = /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/;

function parseLine(line: string, lineNumber: number): MetricSample {
  const fail = (what: string) =>
    new BonsaiError(
      'invalid_request',
      `Line ${lineNumber} of the metrics has ${what}: ${line.slice(0, 200)}`,
    );
  NAME.lastIndex = 0;
  const name = NAME.exec(line)?.[0];
  if (name === undefined) throw fail('no metric name');
  let position = name.length;
  while (line[position] === ' ' || line[position] === '\t') position++;

  // Without a prototype, so that a label called __proto__ is only a label.
  const labels: Record<string, string> = Object.create(null);
  if (line[position] === '{') {
    position++;
    while (line[position] !== '}') {
      LABEL.lastIndex = position;
      const match = LABEL.exec(line);
      if (match === null) {
        if (/^[ \t]*\}/.test(line.slice(position))) {
          position = line.indexOf('}', position);
          break;
        }
        throw fail('a label that is not name="value"');
      }
      labels[match[1]!] = unescaped(match[2]!);
      position = LABEL.lastIndex;
    }
    position++;
  }
  const rest = REST.exec(line.slice(position));
  const value = rest === null ? undefined : parseValue(rest[1]!);
  if (rest === null || value === undefined) throw fail('no value that is a number');
  return rest[2] === undefined
    ? { name, labels, value }
    : { name, labels, value, timestampMs: Number(rest[2]) };
}

/** Go's ParseFloat as far as exporters use it: decimal numbers, NaN, Inf with or without a sign. */
function parseValue(text: string): number | undefined {
  if (FLOAT.test(text)) return Number(text);
  switch (text.toLowerCase()) {
    case 'nan':
      return Number.NaN;
    case 'inf':
    case '+inf':
      return Number.POSITIVE_INFINITY;
    case '-inf':
      return Number.NEGATIVE_INFINITY;
    default:
      return undefined;
  }
}

/** Label values escape backslash, quote and line feed; any other backslash stands for itself. */
function unescaped(text: string): string {
  return text.replace(/\\(.)/g, (pair, char: string) =>
    char === 'n' ? '\n' : char === '\\' || char === '"' ? char : pair,
  );
}
