import { InvalidArgumentError } from '../../base/errors.ts';

/** How one option of a backbone's spec is written. `read` gives undefined for what is none of the `expected`. */
export interface Reader<T> {
  readonly expected: string;
  readonly read: (text: string) => T | undefined;
}

/** An option of a backbone: what it means, how it is written and what it is where the spec does not say. */
export interface Field<T> extends Reader<T> {
  readonly meaning: string;
  readonly isRequired: boolean;
  readonly fallback?: T;
  /** What it is by default, in words. */
  readonly otherwise?: string;
}

export type Fields = Readonly<Record<string, Field<unknown>>>;

/** The values of a family's options. */
export type OptionsOf<F extends Fields> = {
  readonly [K in keyof F]: F[K] extends Field<infer T> ? T : never;
};

export function required<T>(meaning: string, reader: Reader<T>): Field<T> {
  return { ...reader, meaning, isRequired: true };
}

export function optional<T>(meaning: string, reader: Reader<T>, fallback: T): Field<T> {
  return { ...reader, meaning, isRequired: false, fallback, otherwise: String(fallback) };
}

/** An option that the backbone chooses by itself where the spec is silent (undefined). */
export function automatic<T>(meaning: string, reader: Reader<T>, otherwise: string): Field<T | undefined> {
  return { ...reader, meaning, isRequired: false, otherwise };
}

export function integer(min: number, max: number): Reader<number> {
  return {
    expected: `an integer from ${min} to ${max}`,
    read: (text) => (/^\d+$/.test(text) && isWithin(Number(text), min, max) ? Number(text) : undefined),
  };
}

export function decimal(min: number, max: number): Reader<number> {
  return {
    expected: `a number from ${min} to ${max}`,
    read: (text) =>
      /^(\d+\.?\d*|\.\d+)$/.test(text) && isWithin(Number(text), min, max) ? Number(text) : undefined,
  };
}

/** Values with hyphens between them, such as 16-32-64. */
export function list<T>(item: Reader<T>): Reader<readonly T[]> {
  return {
    expected: `a list such as A-B-C, each ${item.expected}`,
    read(text) {
      const items = text.split('-').map(item.read);
      return items.every((value) => value !== undefined) ? items : undefined;
    },
  };
}

/**
 * The options of `key=value,key=value` by a family's fields.
 * @param spec the whole spec, for messages
 * @throws InvalidArgumentError naming the part that is wrong and what the family knows
 */
export function parseOptions<F extends Fields>(spec: string, text: string, fields: F): OptionsOf<F> {
  const given = new Map<string, unknown>();
  for (const part of text === '' ? [] : text.split(',')) {
    const [key = '', value, ...rest] = part.split('=');
    const field = Object.hasOwn(fields, key) ? fields[key] : undefined;
    if (field === undefined || value === undefined || rest.length > 0) {
      throw new InvalidArgumentError(
        `"${part}" in backbone "${spec}" is no option of it. Expected key=value with the keys ${keysOf(fields)}.`,
      );
    }
    if (given.has(key)) {
      throw new InvalidArgumentError(`The backbone "${spec}" gives ${key} twice. Remove one of them.`);
    }
    const parsed = field.read(value);
    if (parsed === undefined) {
      throw new InvalidArgumentError(
        `"${part}" in backbone "${spec}" should be ${key}= with ${field.expected} (${field.meaning}).`,
      );
    }
    given.set(key, parsed);
  }
  const missing = Object.entries(fields).find(([key, field]) => field.isRequired && !given.has(key));
  if (missing !== undefined) {
    throw new InvalidArgumentError(
      `The backbone "${spec}" needs ${missing[0]}= with ${missing[1].expected} (${missing[1].meaning}).`,
    );
  }
  const values = Object.entries(fields).map(([key, { fallback }]) => [key, given.get(key) ?? fallback]);
  return Object.fromEntries(values) as OptionsOf<F>; // Each value came from the reader of its own field.
}

function keysOf(fields: Fields): string {
  return Object.keys(fields).join(', ');
}

function isWithin(value: number, min: number, max: number): boolean {
  return value >= min && value <= max;
}
