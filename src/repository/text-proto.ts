/** A message in protobuf's text format, read without its schema: each field with all its values in their order. */
export type TextMessage = ReadonlyMap<string, readonly TextValue[]>;
export type TextValue = number | bigint | boolean | string | TextIdentifier | TextMessage;

/** A bare word, such as the name of an enum's value. */
export interface TextIdentifier {
  readonly identifier: string;
}

/** Messages of configurations nest some six deep. */
export const MAX_TEXT_DEPTH = 32;

/** Where and why a text is not in the format. */
export class TextProtoError extends Error {
  constructor(line: number, problem: string) {
    super(`line ${line}: ${problem}`);
  }
}

/**
 * Reads protobuf's text format as far as configurations use it: scalars, strings (also adjoining ones), messages with
 * braces or angle brackets, lists in brackets, comments. Extensions and Any are refused.
 * Source: protobuf.dev, "Text Format Language Specification".
 * @throws TextProtoError
 */
export function parseTextProto(text: string): TextMessage {
  const reader = new Reader(text);
  const message = readFields(reader, undefined, 0);
  return message;
}

interface Token {
  readonly kind: 'word' | 'number' | 'string' | 'sign' | 'end';
  readonly text: string;
  readonly line: number;
}

const TOKEN =
  /[\s]+|#[^\n]*|([A-Za-z_][A-Za-z0-9_]*)|(-?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)[fF]?|-(?:inf|infinity|nan)\b)|("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|([{}<>[\]:,;])/gy;

class Reader {
  readonly #tokens: Token[] = [];
  #next = 0;

  constructor(text: string) {
    let line = 1;
    TOKEN.lastIndex = 0;
    let position = 0;
    while (position < text.length) {
      TOKEN.lastIndex = position;
      const match = TOKEN.exec(text);
      if (match === null) {
        const shown = JSON.stringify(text.slice(position, position + 20));
        throw new TextProtoError(line, `cannot read ${shown}`);
      }
      const [all, word, number, string, sign] = match;
      position += all.length;
      if (word !== undefined) this.#tokens.push({ kind: 'word', text: word, line });
      else if (number !== undefined) this.#tokens.push({ kind: 'number', text: number, line });
      else if (string !== undefined) this.#tokens.push({ kind: 'string', text: string, line });
      else if (sign !== undefined) this.#tokens.push({ kind: 'sign', text: sign, line });
      line += all.split('\n').length - 1;
    }
    this.#tokens.push({ kind: 'end', text: 'the end', line });
  }

  peek(): Token {
    return this.#tokens[this.#next]!; // The last token is the end, and nothing takes that one.
  }

  take(): Token {
    const token = this.peek();
    if (token.kind !== 'end') this.#next++;
    return token;
  }

  takeSign(signs: string): string | undefined {
    const { kind, text } = this.peek();
    if (kind !== 'sign' || !signs.includes(text)) return undefined;
    this.#next++;
    return text;
  }
}

const CLOSING: Readonly<Record<string, string>> = { '{': '}', '<': '>' };

function readFields(reader: Reader, closing: string | undefined, depth: number): TextMessage {
  if (depth > MAX_TEXT_DEPTH)
    throw new TextProtoError(reader.peek().line, `messages are nested deeper than ${MAX_TEXT_DEPTH}`);
  const fields = new Map<string, TextValue[]>();
  while (true) {
    const token = reader.take();
    if (closing === undefined ? token.kind === 'end' : token.text === closing && token.kind === 'sign')
      return fields;
    if (token.kind !== 'word')
      throw new TextProtoError(token.line, `expected the name of a field, got ${token.text}`);
    const values = fields.get(token.text) ?? [];
    fields.set(token.text, values);
    const hasColon = reader.takeSign(':') !== undefined;
    if (reader.takeSign('[') === undefined) values.push(readValue(reader, hasColon, depth));
    else if (reader.takeSign(']') === undefined) {
      do values.push(readValue(reader, hasColon, depth));
      while (reader.takeSign(',') !== undefined);
      const end = reader.take();
      if (end.kind !== 'sign' || end.text !== ']')
        throw new TextProtoError(end.line, `expected "," or "]", got ${end.text}`);
    }
    reader.takeSign(',;');
  }
}

function readValue(reader: Reader, hasColon: boolean, depth: number): TextValue {
  const open = reader.takeSign('{<');
  if (open !== undefined) return readFields(reader, CLOSING[open], depth + 1);
  const token = reader.take();
  if (!hasColon) throw new TextProtoError(token.line, `expected ":" or "{", got ${token.text}`);
  switch (token.kind) {
    case 'number':
      return numberOf(token);
    case 'word':
      if (token.text === 'true' || token.text === 'false') return token.text === 'true';
      return { identifier: token.text };
    case 'string': {
      let text = unquoted(token);
      while (reader.peek().kind === 'string') text += unquoted(reader.take());
      return text;
    }
    default:
      throw new TextProtoError(token.line, `expected a value, got ${token.text}`);
  }
}

function numberOf({ text, line }: Token): number | bigint {
  if (/^-?\d+$/.test(text)) {
    const value = Number(text);
    return Number.isSafeInteger(value) ? value : BigInt(text);
  }
  const value = Number(text.replace(/^-(?=0x)/i, '').replace(/(?<!0x.*)[fF]$/i, ''));
  if (Number.isNaN(value)) throw new TextProtoError(line, `${text} is no number`);
  return text.startsWith('-') && value > 0 ? -value : value;
}

const ESCAPES: Readonly<Record<string, string>> = {
  n: '\n',
  t: '\t',
  r: '\r',
  a: '\x07',
  b: '\b',
  f: '\f',
  v: '\v',
};

function unquoted({ text }: Token): string {
  return text
    .slice(1, -1)
    .replace(/\\(?:([0-7]{1,3})|x([0-9a-fA-F]{1,2})|(.))/g, (_, octal, hex, char: string) =>
      octal !== undefined
        ? String.fromCharCode(Number.parseInt(octal, 8))
        : hex !== undefined
          ? String.fromCharCode(Number.parseInt(hex, 16))
          : (ESCAPES[char] ?? char),
    );
}
