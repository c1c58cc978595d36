import { messageOf } from '../base/errors.ts';
import { InvalidRequestError } from './errors.ts';

/** What JSON can hold here: integers too large to be exact as numbers come as bigint. */
export type Json =
  | null
  | boolean
  | number
  | bigint
  | string
  | readonly Json[]
  | { readonly [key: string]: Json };

/**
 * Parses JSON with a bound on nesting and without losing digits of 64-bit integers. The built-in parser does the work
 * unless the text holds an integer of 16 digits or more, the only ones that a double may not hold exactly.
 * @throws InvalidRequestError
 */
export function parseJson(bytes: Uint8Array, maxDepth: number, what = 'the request JSON buffer'): Json {
  const { hasLongInteger, isAscii } = scan(bytes, maxDepth);
  let text: string;
  try {
    text = isAscii ? latin1(bytes) : strictUtf8.decode(bytes);
  } catch (cause) {
    throw new InvalidRequestError(`failed to parse ${what}: it is not UTF-8`, { cause });
  }
  try {
    const value: Json = JSON.parse(text); // What it returns is JSON by definition.
    return hasLongInteger ? new ExactParser(text).parse() : value;
  } catch (cause) {
    throw new InvalidRequestError(`failed to parse ${what}: ${messageOf(cause)}`, { cause });
  }
}

/**
 * Longer integers are beyond 64 bits ("-9223372036854775808" and "18446744073709551615" have 20 characters) and stay
 * plain numbers: making a bigint of a million digits would hold up the socket thread.
 */
export const MAX_INTEGER_LENGTH = 20;

/** Digits from which an integer may exceed 2^53 (9007199254740992 has 16). */
const LONG_INTEGER_DIGITS = 16;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

const strictUtf8 = new TextDecoder('utf-8', { fatal: true });

/** The quickest way from bytes to text, for those that are the same in both. */
function latin1({ buffer, byteOffset, byteLength }: Uint8Array): string {
  return Buffer.from(buffer, byteOffset, byteLength).toString('latin1');
}

/** One pass over the bytes: checks the depth; tells whether a run of digits outside strings is long, and whether all are ASCII. */
function scan(bytes: Uint8Array, maxDepth: number): { hasLongInteger: boolean; isAscii: boolean } {
  let depth = 0;
  let digits = 0;
  let hasLongInteger = false;
  let seen = 0;
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i]!;
    seen |= byte;
    if (byte >= 0x30 && byte <= 0x39) {
      if (++digits >= LONG_INTEGER_DIGITS) hasLongInteger = true;
      continue;
    }
    digits = 0;
    if (byte === QUOTE) {
      for (i++; i < bytes.length && bytes[i] !== QUOTE; i++) {
        seen |= bytes[i]!;
        if (bytes[i] === BACKSLASH) seen |= bytes[++i] ?? 0;
      }
    } else if (byte === 0x5b || byte === 0x7b) {
      if (++depth > maxDepth)
        throw new InvalidRequestError(`the request JSON is nested deeper than ${maxDepth} levels`);
    } else if (byte === 0x5d || byte === 0x7d) {
      depth--;
    }
  }
  return { hasLongInteger, isAscii: seen < 0x80 };
}

/** Reads text that JSON.parse has accepted already, so it need not check the grammar. */
class ExactParser {
  readonly #text: string;
  readonly #token = /[\s,:]*(?:([[\]{}])|("(?:[^"\\]|\\.)*")|(-?\d+(?![\d.eE]))|([^\s,:[\]{}"]+))/gy;

  constructor(text: string) {
    this.#text = text;
  }

  parse(): Json {
    return this.#value(this.#next());
  }

  #next(): RegExpExecArray {
    return this.#token.exec(this.#text)!; // The grammar was checked, so there is a token.
  }

  #value([, bracket, string, integer, other]: RegExpExecArray): Json {
    if (bracket === '[') {
      const items: Json[] = [];
      for (let token = this.#next(); token[1] !== ']'; token = this.#next()) items.push(this.#value(token));
      return items;
    }
    if (bracket === '{') {
      const entries: [string, Json][] = [];
      for (let token = this.#next(); token[1] !== '}'; token = this.#next()) {
        entries.push([JSON.parse(token[2]!), this.#value(this.#next())]);
      }
      return Object.fromEntries(entries);
    }
    if (integer !== undefined && integer.length <= MAX_INTEGER_LENGTH) {
      const value = Number(integer);
      return Number.isSafeInteger(value) ? value : BigInt(integer);
    }
    return JSON.parse(string ?? integer ?? other!);
  }
}
