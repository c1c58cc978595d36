import { InvalidArgumentError } from './errors.ts';

/**
 * Makes sure that what a caller without types gave is an object with options that exist: a misspelt one would be ignored.
 * @param of what takes the options, for the message, such as `prune`
 * @param example of such options, for the message
 * @param hints what is meant by names that are often tried, by these names
 * @throws InvalidArgumentError naming what was given and what there is
 */
export function checkOptionNames(
  of: string,
  options: unknown,
  known: readonly string[],
  { example, hints = {} }: { readonly example: string; readonly hints?: Readonly<Record<string, string>> },
): void {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw new InvalidArgumentError(
      `${of} takes its options as an object such as ${example}, got ${named(options)}.`,
    );
  }
  const unknown = Object.keys(options).find((name) => !known.includes(name));
  if (unknown === undefined) return;
  const hint = Object.hasOwn(hints, unknown) ? ` Say ${hints[unknown]}.` : '';
  throw new InvalidArgumentError(`${of} has no option "${unknown}"; there are ${known.join(', ')}.${hint}`);
}

/** Makes sure that a network was given. @throws InvalidArgumentError where it is none, saying what was */
export function checkIsModel(of: string, model: unknown): void {
  if (typeof model === 'object' && model !== null && 'graph' in model) return;
  throw new InvalidArgumentError(
    `${of} takes a network as \`readModelFile\` gives it (await it), got ${named(model)}.`,
  );
}

function named(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  if (value instanceof Promise) return 'a promise';
  return Array.isArray(value) ? 'a list' : `a ${value.constructor?.name ?? typeof value}`;
}
